"""Scoring of datasets on disk: the same numbers as in memory, whatever the file, a kill or a bad row does."""

import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from click.testing import CliRunner

from expunge._files import FileFormatError
from expunge.accounting import privacy_loss
from expunge.cli import main
from expunge.scoring import (
    BadRowError,
    ProbeCheckpoints,
    plot_loss_against_proxies,
    plot_loss_distribution,
    score_files,
    score_records,
)
from expunge.scoring.parts import prepare

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="peak memory is read from /proc")
D, C, N = 6, 3, 4
RUN = {"n_steps": 40, "noise_std": 0.05, "step_size": 0.3, "sampling_probability": 0.1, "batch_size": 20.0}


def make_probe(seed=0, *, loss="softmax", d=D, c=C, n=N, **changes):
    rng = np.random.default_rng(seed)
    steps = np.linspace(0, 39, n).astype(np.int64)
    return ProbeCheckpoints(weights=rng.normal(size=(n, d, c)), steps=steps, loss=loss, **{**RUN, **changes})


def make_data(n, seed=1, *, d=D, c=C, dtype=np.float64):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)).astype(dtype), rng.integers(0, c, n)


def write_parquet(path, X, y, *, rows_per_group=100, fixed=True):
    flat = pa.array(X.reshape(-1))
    offsets = np.arange(0, X.size + 1, X.shape[1], dtype=np.int32)
    lists = pa.FixedSizeListArray.from_arrays(flat, X.shape[1]) if fixed else pa.ListArray.from_arrays(offsets, flat)
    ids = pa.array([f"id-{i}" for i in range(len(y))])
    pq.write_table(pa.table({"name": ids, "features": lists, "label": y}), path, row_group_size=rows_per_group)
    return path


def write_npy(folder, X, y):
    np.save(folder / "x.npy", X)
    np.save(folder / "y.npy", y)
    return {"source": folder / "x.npy", "labels": folder / "y.npy"}


def read(path):
    table = pq.read_table(path)
    return {name: table.column(name).to_numpy(zero_copy_only=False) for name in table.schema.names}


def naive_scores(X, y, probe, order):
    """One record and one checkpoint at a time, plain formulas."""
    rows = []
    early = int(np.argmin(np.abs(probe.steps - 0.1 * probe.n_steps)))
    for x, label in zip(X, y, strict=True):
        norms, own, el2n, loss = [], [], None, None
        for k, w in enumerate(probe.weights):
            u = x @ w
            if probe.loss == "softmax":
                p = np.exp(u - u.max()) / np.exp(u - u.max()).sum()
                residual, own_k, loss = p - np.eye(len(u))[label], p[label], -np.log(p[label])
            elif probe.loss == "logistic":
                p = 1 / (1 + np.exp(-u))
                residual, own_k = p - label, (p if label else 1 - p)[0]
                loss = -np.log(own_k)
            else:
                residual, own_k = u - label, np.nan
                loss = 0.5 * np.sum(residual**2)
            norms.append(np.linalg.norm(np.outer(x, residual)))
            own.append(own_k)
            if k == early:
                el2n, grand = np.linalg.norm(residual), norms[-1]
        rows.append((np.mean(norms), el2n, np.mean(own), grand, loss, norms))
    average, el2n, own, grand, loss, norms = (np.array(column) for column in zip(*rows, strict=True))
    constants = {
        name: getattr(probe, name) for name in ("noise_std", "step_size", "sampling_probability", "batch_size")
    }
    losses = privacy_loss(norms, order=order, steps=probe.steps, n_steps=probe.n_steps, **constants)
    return {
        "average_grad_norm": average,
        "el2n": el2n,
        "c_proxy": own,
        "grand": grand,
        "loss": loss,
        "privacy_loss": np.asarray(losses),
        "grad_norms": norms,
    }


@pytest.mark.parametrize("loss", ["softmax", "logistic", "squared"])
def test_scores_are_the_plain_formulas(loss):
    probe = make_probe(loss=loss, c=1 if loss == "logistic" else C)
    X, y = make_data(30, c=2 if loss == "logistic" else C)
    if loss == "squared":
        y = np.random.default_rng(5).normal(size=(30, C))
    truth = naive_scores(X, y, probe, 2.5)
    scores = score_records(X, y, probe, orders=[2.5], keep_norms=True)
    assert ("c_proxy" in scores) == (loss != "squared")
    for name, value in scores.items():
        # Privacy losses come from a table that is right to 1e-9.
        rtol = 2e-9 if name.startswith("privacy_loss") else 1e-10
        np.testing.assert_allclose(value, truth[name.removesuffix("_2.5")], rtol=rtol, err_msg=name)


def test_confident_records_keep_their_digits():
    probe = ProbeCheckpoints(weights=40.0 * np.eye(2)[np.newaxis], steps=[0], loss="softmax", **RUN)
    scores = score_records(np.array([[1.0, 0.0]]), np.array([0]), probe)
    assert scores["loss"][0] == pytest.approx(np.exp(-40.0), rel=1e-9)
    assert scores["el2n"][0] == pytest.approx(np.sqrt(2) * np.exp(-40.0), rel=1e-9)


@pytest.mark.parametrize("layout", ["fixed", "list", "columns", "npy", "folder"])
def test_every_layout_gives_the_numbers_in_memory(tmp_path, layout):
    X, y = make_data(257)
    probe, out = make_probe(), tmp_path / "out.parquet"
    more = {}
    if layout in ("fixed", "list"):
        source = write_parquet(tmp_path / "d.parquet", X, y, fixed=layout == "fixed")
        more = {"record_id": "name"}
    elif layout == "columns":
        source = tmp_path / "d.parquet"
        table = {f"f{j}": X[:, j] for j in range(D)} | {"label": y}
        pq.write_table(pa.table(table), source, row_group_size=64)
        more = {"features": [f"f{j}" for j in range(D)]}
    elif layout == "npy":
        more = write_npy(tmp_path, X, y)
        source = more.pop("source")
    else:
        source = tmp_path / "shards"
        source.mkdir()
        write_parquet(source / "a.parquet", X[:200], y[:200])
        write_parquet(source / "b.parquet", X[200:], y[200:], rows_per_group=10)
    summary = score_files(
        source, probe, out, orders=[2.0, 8.0], keep_norms=True, rows_per_part=50, progress=False, **more
    )
    assert (summary.rows, summary.bad_rows, summary.status) == (257, 0, "estimate")
    got, truth = read(out), score_records(X, y, probe, orders=[2.0, 8.0], keep_norms=True)
    assert list(got) == ["record", *[n for n in truth if n != "grad_norms"], "grad_norms", "rank"]
    for name, value in truth.items():
        given = np.stack(got[name]) if name == "grad_norms" else got[name]
        np.testing.assert_allclose(given, value, rtol=1e-9, err_msg=name)
    assert list(got["record"]) == ([f"id-{i}" for i in range(257)] if "record_id" in more else list(range(257)))
    losses = truth["privacy_loss_2"]
    assert got["rank"].tolist() == [1 + int((losses > one).sum()) for one in losses]
    assert json.loads(pq.read_schema(out).metadata[b"expunge"])["status"] == "estimate"
    assert not (tmp_path / "out.parquet.parts").exists()


def test_append_one_is_an_intercept(tmp_path):
    X, y = make_data(20, d=D - 1)
    given = write_npy(tmp_path, X.astype(np.float32), y)
    score_files(probe=make_probe(), out=tmp_path / "o.parquet", append_one=True, progress=False, **given)
    truth = score_records(np.hstack([X, np.ones((20, 1))]).astype(np.float32), y, make_probe())
    np.testing.assert_allclose(read(tmp_path / "o.parquet")["el2n"], truth["el2n"], rtol=1e-6)


def test_bad_rows_stop_by_name_or_become_null(tmp_path):
    X, y = make_data(120)
    lists = [row.tolist() for row in X]
    lists[7], lists[50], lists[110] = lists[7][:-1], [float("nan"), *lists[50][1:]], None
    labels = [int(v) for v in y]
    labels[30], labels[31] = 3, None
    table = pa.table({"features": pa.array(lists, pa.list_(pa.float64())), "label": pa.array(labels, pa.int64())})
    pq.write_table(table, tmp_path / "d.parquet", row_group_size=40)
    out = tmp_path / "out.parquet"
    with pytest.raises(BadRowError, match=r"d\.parquet, row 7: 5 features where 6"):
        score_files(tmp_path / "d.parquet", make_probe(), out, progress=False)
    assert not out.exists()
    summary = score_files(
        tmp_path / "d.parquet", make_probe(), out, progress=False, on_bad_rows="null", restart=True, keep_norms=True
    )
    assert summary.bad_rows == 5
    got = pq.read_table(out)
    bad = [7, 30, 31, 50, 110]
    for name in got.schema.names:
        assert [i for i, value in enumerate(got.column(name).to_pylist()) if value is None] == (
            [] if name == "record" else bad
        )
    good = np.setdiff1d(np.arange(120), bad)
    truth = score_records(X[good], y[good], make_probe())
    np.testing.assert_allclose(read(out)["privacy_loss_2"][good], truth["privacy_loss_2"], rtol=2e-9)
    assert sorted(read(out)["rank"][good]) == list(range(1, 116))
    # Null lists of fixed size would be lost on PyArrow before 26; rows beside null ones keep their own norms.
    assert pa.types.is_list(got.schema.field("grad_norms").type)
    norms = score_records(X[good], y[good], make_probe(), keep_norms=True)["grad_norms"]
    np.testing.assert_allclose(np.stack(read(out)["grad_norms"][good]), norms, rtol=2e-9)


def test_npy_rows_with_nan_are_named(tmp_path):
    X, y = make_data(90)
    X[61, 2] = np.inf
    with pytest.raises(BadRowError, match=r"x\.npy, row 61: a feature is missing, NaN or infinite"):
        score_files(
            probe=make_probe(),
            out=tmp_path / "o.parquet",
            rows_per_part=20,
            progress=False,
            **write_npy(tmp_path, X, y),
        )


def test_records_that_overflow_are_bad_and_nobody_else(tmp_path):
    X, y = make_data(300, d=32, dtype=np.float32)
    X[130], X[7, 0] = 3e38, np.nan
    out = tmp_path / "o.parquet"
    common = {
        "probe": make_probe(d=32),
        "out": out,
        "rows_per_part": 90,
        "progress": False,
        **write_npy(tmp_path, X, y),
    }
    summary = score_files(**common, on_bad_rows="null")
    assert summary.bad_rows == 2
    assert [i for i, rank in enumerate(pq.read_table(out).column("rank").to_pylist()) if rank is None] == [7, 130]
    X[7, 0] = 0.0
    write_npy(tmp_path, X, y)
    with pytest.raises(BadRowError, match=r"row 130: its logits or gradients overflow"):
        score_files(**common, overwrite=True)
    with pytest.raises(ValueError, match="row 130: its logits"):
        score_records(X, y, make_probe(d=32))
    X[130] = 0.0
    assert np.isfinite(score_records(X, y, make_probe(d=32))["privacy_loss_2"]).all()


def test_scores_do_not_depend_on_the_size_of_a_block(tmp_path):
    X, y = make_data(500, dtype=np.float32)
    truth = score_records(X, y, make_probe())
    write_parquet(tmp_path / "d.parquet", X, y, rows_per_group=77)
    score_files(tmp_path / "d.parquet", make_probe(), tmp_path / "o.parquet", progress=False)
    for name, value in truth.items():
        np.testing.assert_array_equal(read(tmp_path / "o.parquet")[name], value, err_msg=name)


CHILD = """
import sys
from expunge.scoring import ProbeCheckpoints, score_files
folder, threads = sys.argv[1], 1
score_files(folder + "/x.npy", ProbeCheckpoints.load(folder + "/probe.npz"), sys.argv[2], labels=folder + "/y.npy",
            orders=[2.0, 8.0], rows_per_part=int(sys.argv[3]), progress=False, threads=1)
print([line for line in open("/proc/self/status") if "VmHWM" in line][0].split()[1])
"""


def run_child(folder, out, rows_per_part):
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, str(folder), str(out), str(rows_per_part)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
    )


def finish(child):
    """Wait for the child and return its peak memory in bytes."""
    text, _ = child.communicate()
    assert child.returncode == 0
    return int(text) * 1024


@linux
def test_kill_in_the_middle_changes_not_a_byte(tmp_path):
    X, y = make_data(24_000)
    write_npy(tmp_path, X, y)
    make_probe().save(tmp_path / "probe.npz")
    calm, killed = tmp_path / "calm.parquet", tmp_path / "killed.parquet"
    assert finish(run_child(tmp_path, calm, 1000)) > 0
    parts = tmp_path / "killed.parquet.parts"
    kills = 0
    for wanted in (4, 14):
        child = run_child(tmp_path, killed, 1000)
        while child.poll() is None and len(list(parts.glob("part-*.parquet"))) < wanted:
            time.sleep(0.001)
        child.send_signal(signal.SIGKILL)
        kills += child.wait() == -signal.SIGKILL
        child.stdout.close()
        assert not killed.exists()
        finished = len(list(parts.glob("part-*.parquet")))
    assert kills == 2
    finish(run_child(tmp_path, killed, 1000))
    assert wanted <= finished < 24
    assert killed.read_bytes() == calm.read_bytes()
    assert not parts.exists()
    assert list(read(killed)["record"]) == list(range(24_000))
    # Once more: the finished file is recognised and left alone.
    before = killed.stat().st_mtime_ns
    finish(run_child(tmp_path, killed, 1000))
    assert killed.stat().st_mtime_ns == before


@linux
def test_memory_does_not_grow_with_the_data(tmp_path):
    peaks = []
    n = 40_000
    for factor in (4, 40):  # both with more parts than are under way at a time
        folder = tmp_path / str(factor)
        folder.mkdir()
        X, y = make_data(n * factor, d=32, dtype=np.float32)
        write_npy(folder, X, y)
        make_probe(d=32).save(folder / "probe.npz")
        peaks.append(finish(run_child(folder, folder / "o.parquet", 20_000)))
    # 184 MB more data; allowed are 16 bytes a record and what an allocator holds back.
    assert peaks[1] - peaks[0] <= 16 * 36 * n + 16 * 2**20


def test_an_unfinished_run_with_other_settings_is_refused(tmp_path):
    X, y = make_data(100)
    X[80] = np.nan
    given = write_npy(tmp_path, X, y)
    common = {"probe": make_probe(), "out": tmp_path / "o.parquet", "rows_per_part": 10, "progress": False, **given}
    with pytest.raises(BadRowError):
        score_files(**common)
    waiting = list((tmp_path / "o.parquet.parts").iterdir())
    assert {"lock", "plan.json", "part-00000000.parquet"} <= {path.name for path in waiting}
    if os.name == "posix":  # what waits tells something of single records
        assert not [path.name for path in waiting if path.stat().st_mode & 0o077]
    with pytest.raises(FileExistsError, match="restart"):
        score_files(**{**common, "orders": [3.0]})
    assert score_files(**{**common, "on_bad_rows": "null", "restart": True}).resumed_parts == 0
    with pytest.raises(FileExistsError, match="overwrite"):
        score_files(**{**common, "orders": [3.0], "on_bad_rows": "null"})
    assert score_files(**{**common, "orders": [3.0], "on_bad_rows": "null"}, overwrite=True).bad_rows == 1


def test_a_run_that_stopped_at_a_bad_row_goes_on_as_it_is_told_to(tmp_path):
    X, y = make_data(100)
    X[80] = np.nan
    given = {k: str(v) for k, v in write_npy(tmp_path, X, y).items()}
    make_probe().save(tmp_path / "p.npz")

    def score(out, *more, code=0):
        arguments = ["score", given["source"], "--labels", given["labels"], "--checkpoints", tmp_path / "p.npz"]
        arguments += ["--rows-per-part", 10, "--quiet", "--out", tmp_path / out, *more]
        result = CliRunner().invoke(main, [str(a) for a in arguments])
        assert result.exit_code == code, result.output
        return result.output

    assert "--on-bad-rows null" in score("o.parquet", code=2)
    said = score("o.parquet", "--on-bad-rows", "null")
    assert re.search(r"1 bad rows written as null, [1-8] of 10 parts from an earlier run", said)
    score("other.parquet", "--on-bad-rows", "null")
    assert (tmp_path / "o.parquet").read_bytes() == (tmp_path / "other.parquet").read_bytes()
    assert "10 of 10 parts" in score("o.parquet", "--on-bad-rows", "null")
    assert "already exists" in score("o.parquet", code=2)  # it has a null row, and this call allows none
    prepare(
        tmp_path / "o.parquet", tmp_path / "o.parquet.parts", "s", on_bad_rows="null", overwrite=True, restart=False
    )
    with pytest.raises(FileExistsError, match="whose bad rows are null; go on with on_bad_rows='null'"):
        prepare(
            tmp_path / "o.parquet", tmp_path / "o.parquet.parts", "s", on_bad_rows="stop", overwrite=True, restart=False
        )


def test_a_result_without_bad_rows_serves_either_way(tmp_path):
    X, y = make_data(40)
    common = {"probe": make_probe(), "out": tmp_path / "o.parquet", "progress": False, **write_npy(tmp_path, X, y)}
    score_files(**common, on_bad_rows="null")
    assert score_files(**common).resumed_parts == 1
    assert score_files(**common, on_bad_rows="null").resumed_parts == 1


def test_bad_arguments_and_files_are_named(tmp_path):
    X, y = make_data(10)
    given = write_npy(tmp_path, X, y)
    common = {"probe": make_probe(), "out": tmp_path / "o.parquet", "progress": False, **given}
    for change, match in (
        ({"orders": [1.0]}, "orders"),
        ({"orders": []}, "orders"),
        ({"rows_per_part": 0}, "rows_per_part"),
        ({"on_bad_rows": "skip"}, "on_bad_rows"),
        ({"labels": None}, "labels"),
        ({"probe": make_probe(d=D + 1)}, "features"),
        ({"source": tmp_path}, "parquet|npy"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=match):
            score_files(**{**common, **change, "out": tmp_path / "other.parquet"})
    whole = (tmp_path / "x.npy").read_bytes()
    (tmp_path / "x.npy").write_bytes(whole[:-8])
    with pytest.raises(ValueError, match="truncated"):
        score_files(**common)
    parquet = write_parquet(tmp_path / "d.parquet", X, y)
    with pytest.raises(ValueError, match="column"):
        score_files(parquet, make_probe(), tmp_path / "p.parquet", label="nothing", progress=False)
    parquet.write_bytes(parquet.read_bytes()[:-20])
    with pytest.raises(ValueError, match="Parquet"):
        score_files(parquet, make_probe(), tmp_path / "p.parquet", progress=False)


# --- shards --------------------------------------------------------------------------------------


def write_shards(folder, X, y, sizes):
    """Write rows into shards of these sizes, with labels in a folder and in one file."""
    (folder / "shards").mkdir()
    (folder / "labels").mkdir()
    for name, rows in zip("abc", np.split(np.arange(len(y)), np.cumsum(sizes)[:-1]), strict=False):
        np.save(folder / "shards" / f"{name}.npy", X[rows])
        np.save(folder / "labels" / f"{name}.npy", y[rows])
    np.save(folder / "all.npy", y)
    return folder / "shards"


@pytest.mark.parametrize("labels", ["labels", "all.npy"])
@pytest.mark.parametrize("rows_per_part", [2, 7, 100])
def test_every_shard_has_its_own_labels(tmp_path, labels, rows_per_part):
    X, y = make_data(19)
    source = write_shards(tmp_path, X, y, [8, 3, 8])
    out = tmp_path / "o.parquet"
    summary = score_files(
        source, make_probe(), out, labels=tmp_path / labels, rows_per_part=rows_per_part, progress=False
    )
    assert summary.rows == 19
    np.testing.assert_allclose(read(out)["loss"], score_records(X, y, make_probe())["loss"], rtol=1e-12)


def test_labels_of_one_shard_never_serve_another(tmp_path):
    X, y = make_data(4)
    source = write_shards(tmp_path, X, y, [2, 2])
    np.save(tmp_path / "two.npy", y[:2])
    with pytest.raises(ValueError, match=r"two.npy must have 4 rows, as the 2 shards together, got shape \(2,\)"):
        score_files(source, make_probe(), tmp_path / "o.parquet", labels=tmp_path / "two.npy", progress=False)
    np.save(tmp_path / "labels" / "d.npy", np.zeros(3, dtype=int))
    with pytest.raises(ValueError, match=r"labels .*labels holds d\.npy, but the source has no shard of that name"):
        score_files(source, make_probe(), tmp_path / "o.parquet", labels=tmp_path / "labels", progress=False)
    (tmp_path / "labels" / "d.npy").rename(tmp_path / "labels" / "_d.npy")
    (tmp_path / "labels" / "b.npy").unlink()
    with pytest.raises(FileNotFoundError, match=r"labels .*b\.npy does not exist"):
        score_files(source, make_probe(), tmp_path / "o.parquet", labels=tmp_path / "labels", progress=False)
    assert not list(tmp_path.glob("o.parquet*"))


def test_endings_count_in_any_case_hidden_files_never_and_strange_ones_are_named(tmp_path):
    X, y = make_data(30)
    folder = tmp_path / "shards"
    folder.mkdir()
    write_parquet(folder / "P.PARQUET", X[:20], y[:20])
    write_parquet(folder / "q.parquet", X[20:], y[20:])
    for name in ("._q.parquet", "_tmp.parquet", ".hidden", "_SUCCESS"):
        (folder / name).write_bytes(b"no data")
    common = {"source": folder, "probe": make_probe(), "out": tmp_path / "o.parquet", "progress": False}
    assert score_files(**common).rows == 30
    np.testing.assert_allclose(read(tmp_path / "o.parquet")["loss"], score_records(X, y, make_probe())["loss"])
    for name in ("notes.txt", "q.parquet.tmp", "more"):
        (folder / name).mkdir() if name == "more" else (folder / name).write_text("?")
        with pytest.raises(ValueError, match=f"not a .parquet shard: {name}; move it"):
            score_files(**common, overwrite=True)
        (folder / name).rename(tmp_path / name)


@pytest.mark.parametrize("kinds", [("int32", "int64"), ("int16", "uint8"), ("string", "large_string")])
def test_ids_of_one_kind_are_brought_to_one_type(tmp_path, kinds):
    X, y = make_data(4)
    (tmp_path / "s").mkdir()
    for i, kind in enumerate(kinds):
        ids = pa.array([str(2 * i), str(2 * i + 1)]).cast(getattr(pa, kind)())
        lists = pa.FixedSizeListArray.from_arrays(pa.array(X[2 * i : 2 * i + 2].ravel()), D)
        table = pa.table({"name": ids, "features": lists, "label": pa.array(y[2 * i : 2 * i + 2]).cast("int32")})
        pq.write_table(table, tmp_path / "s" / f"{i}.parquet")
    score_files(tmp_path / "s", make_probe(), tmp_path / "o.parquet", record_id="name", progress=False)
    assert [str(one) for one in read(tmp_path / "o.parquet")["record"]] == ["0", "1", "2", "3"]


def test_shards_that_do_not_belong_together_are_named_before_any_work(tmp_path, monkeypatch):
    X, y = make_data(8)
    (tmp_path / "s").mkdir()
    lists = pa.FixedSizeListArray.from_arrays(pa.array(X.ravel()), D)
    good = {"name": pa.array(range(8)), "features": lists, "label": pa.array(y)}
    pq.write_table(pa.table(good), tmp_path / "s" / "a.parquet")
    monkeypatch.setattr("expunge.scoring.job._scored", None)  # no record is scored
    letters = pa.array(list("abcdefgh"))
    short = pa.FixedSizeListArray.from_arrays(pa.array(X[:, :5].ravel()), 5)
    for change, match in (
        ({"name": letters}, r"a\.parquet has int64, .*b\.parquet has string"),
        ({"name": pa.array(np.arange(8.0))}, r"b\.parquet must be whole numbers or text, got double"),
        ({"features": lists.cast(pa.list_(pa.float32(), D))}, r"one dtype in all shards: .*a\.parquet.*b\.parquet"),
        ({"features": short}, r"b\.parquet must have 6 features a row, got 5"),
        ({"label": letters}, r"column label of .*b\.parquet must hold numbers, got string"),
        ({"label": pa.array([[1]] * 8)}, "must hold one number a row for the softmax loss"),
        ({"label": None}, r"b\.parquet must have the column label, got name, features"),
        ({"features": letters}, "features must name 6 columns, got 1"),
    ):
        columns = {name: value for name, value in {**good, **change}.items() if value is not None}
        pq.write_table(pa.table(columns), tmp_path / "s" / "b.parquet")
        with pytest.raises((TypeError, ValueError), match=match):
            score_files(tmp_path / "s", make_probe(), tmp_path / "o.parquet", record_id="name", progress=False)
        assert not list(tmp_path.glob("o.parquet*"))
    twice = pa.Table.from_arrays([*good.values(), good["label"]], names=[*good, "label"])
    pq.write_table(twice, tmp_path / "s" / "b.parquet")
    with pytest.raises(ValueError, match=r"b\.parquet has 2 columns of the name label"):
        score_files(tmp_path / "s", make_probe(), tmp_path / "o.parquet", progress=False)


@pytest.mark.parametrize(
    ("labels", "match"),
    [
        (np.array(["a"] * 8), "must hold numbers, got dtype <U1: write classes as 0, 1, 2"),
        (np.zeros((8, 2), dtype=int), r"must hold 1 number\(s\) a row for the softmax loss, got shape \(8, 2\)"),
        (np.zeros(7, dtype=int), "must have 8 rows"),
        (np.array(0), "must have 8 rows"),
    ],
)
def test_labels_that_are_no_labels_are_named(tmp_path, labels, match):
    X, y = make_data(8)
    given = write_npy(tmp_path, X, y)
    np.save(tmp_path / "y.npy", labels)
    with pytest.raises((TypeError, ValueError), match=rf"labels .*y\.npy {match}"):
        score_files(probe=make_probe(), out=tmp_path / "o.parquet", progress=False, **given)


def test_booleans_are_labels_in_every_format_and_missing_integers_are_bad_rows(tmp_path):
    X, y = make_data(8, c=2)
    probe = make_probe(loss="logistic", c=1)
    truth = score_records(X, y, probe)["loss"]
    given = write_npy(tmp_path, X, y.astype(bool)[:, np.newaxis])
    score_files(probe=probe, out=tmp_path / "n.parquet", progress=False, **given)
    write_parquet(tmp_path / "d.parquet", X, y.astype(bool))
    score_files(tmp_path / "d.parquet", probe, tmp_path / "p.parquet", progress=False)
    for name in ("n.parquet", "p.parquet"):
        np.testing.assert_allclose(read(tmp_path / name)["loss"], truth, rtol=1e-12)
    columns = {f"f{j}": pa.array([2**62 + 1, None, 3], pa.int64()) for j in range(D)}
    pq.write_table(pa.table({**columns, "label": [True, False, None]}), tmp_path / "i.parquet")
    out = tmp_path / "q.parquet"
    summary = score_files(
        tmp_path / "i.parquet", probe, out, features=list(columns), on_bad_rows="null", progress=False
    )
    assert summary.bad_rows == 2


def test_the_output_is_neither_an_input_nor_among_them_nor_a_link(tmp_path):
    X, y = make_data(8)
    source = write_shards(tmp_path, X, y, [4, 4])
    write_parquet(tmp_path / "d.parquet", X, y)
    whole = (tmp_path / "d.parquet").read_bytes()
    (tmp_path / "link.parquet").symlink_to(tmp_path / "else.parquet")
    os.link(tmp_path / "d.parquet", tmp_path / "second.parquet")
    for out, data, labels, match in (
        ("d.parquet", tmp_path / "d.parquet", None, "must not be source"),
        ("second.parquet", tmp_path / "d.parquet", None, "must not be source"),
        ("shards/o.parquet", source, tmp_path / "all.npy", "must not lie in source"),
        ("labels/o.parquet", source, tmp_path / "labels", "must not lie in labels"),
        ("all.npy", source, tmp_path / "all.npy", "must not be labels"),
        ("link.parquet", tmp_path / "d.parquet", None, "symbolic link"),
    ):
        with pytest.raises(ValueError, match=match):
            score_files(data, make_probe(), tmp_path / out, labels=labels, overwrite=True, progress=False)
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError, match=r"out: .*folder is a folder, needed the name of a file"):
        score_files(tmp_path / "d.parquet", make_probe(), tmp_path / "folder", overwrite=True, progress=False)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match=r"out \(.*pipe\) must be the name of a file or folder"):
        score_files(tmp_path / "d.parquet", make_probe(), tmp_path / "pipe", overwrite=True, progress=False)
    assert (tmp_path / "d.parquet").read_bytes() == whole
    assert not list(tmp_path.rglob("*.parts"))
    make_probe().save(tmp_path / "p.npz")
    arguments = ["score", str(tmp_path / "d.parquet"), "--checkpoints", str(tmp_path / "p.npz"), "--overwrite"]
    refused = CliRunner().invoke(main, [*arguments, "--out", str(tmp_path / "p.npz")])
    assert refused.exit_code == 2
    assert "must not be --checkpoints" in refused.output


def test_a_damaged_column_is_named_by_its_file(tmp_path):
    X, y = make_data(400)
    place = write_parquet(tmp_path / "d.parquet", X, y, rows_per_group=400)
    data = bytearray(place.read_bytes())
    data[4:3000] = bytes(2996)  # pages, not the footer
    place.write_bytes(data)
    with pytest.raises(ValueError, match=r"d\.parquet cannot be read from row 0 on"):
        score_files(place, make_probe(), tmp_path / "o.parquet", record_id="name", progress=False)


def test_checkpoints_round_trip_and_refuse(tmp_path):
    probe = make_probe()
    probe.save(tmp_path / "p.npz")
    again = ProbeCheckpoints.load(tmp_path / "p.npz")
    assert again.digest() == probe.digest()
    assert np.array_equal(again.weights, probe.weights)
    (tmp_path / "cut.npz").write_bytes((tmp_path / "p.npz").read_bytes()[:-50])
    with pytest.raises(FileFormatError, match=r"cut\.npz"):
        ProbeCheckpoints.load(tmp_path / "cut.npz")
    np.savez(tmp_path / "less.npz", weights=probe.weights)
    with pytest.raises(FileFormatError, match="steps"):
        ProbeCheckpoints.load(tmp_path / "less.npz")
    for change, match in (({"loss": "hinge"}, "loss"), ({"noise_std": np.nan}, "noise_std"), ({"n_steps": 5}, "steps")):
        with pytest.raises(ValueError, match=match):
            make_probe(**change)


def test_command_line(tmp_path):
    X, y = make_data(300)
    parquet = write_parquet(tmp_path / "d.parquet", X, y)
    make_probe().save(tmp_path / "p.npz")
    out = tmp_path / "o.parquet"
    arguments = ["score", str(parquet), "--checkpoints", str(tmp_path / "p.npz"), "--out", str(out), "--order", "3"]
    result = CliRunner().invoke(main, [*arguments, "--plots", str(tmp_path / "pictures"), "--norms"])
    assert result.exit_code == 0, result.output
    assert "300 records scored" in result.output
    truth = score_records(X, y, make_probe(), orders=[3.0])
    np.testing.assert_allclose(read(out)["privacy_loss_3"], truth["privacy_loss_3"], rtol=1e-9)
    assert {p.name for p in (tmp_path / "pictures").iterdir()} == {"privacy_loss.png", "proxies.png"}
    if os.name == "posix":  # scores tell something of single records
        assert not [p for p in (out, *(tmp_path / "pictures").iterdir()) if p.stat().st_mode & 0o077]
    refused = CliRunner().invoke(main, [*arguments, "--order", "0.5", "--overwrite"])
    assert refused.exit_code == 2
    assert "orders" in refused.output


def test_plots_say_what_was_left_out(tmp_path):
    losses = np.concatenate([np.geomspace(1e-4, 1.0, 500), [0.0, np.inf]])
    figure = plot_loss_distribution(losses, order=2.0, path=tmp_path / "a.png")
    assert "2 of them" in figure.axes[0].get_title()
    assert (tmp_path / "a.png").stat().st_size > 1000
    legend = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert legend == ["50th percentile of those drawn: 0.01", "99th percentile of those drawn: 0.912"]
    assert all(float(tick).is_integer() for tick in figure.axes[0].get_yticks())  # numbers of records
    with pytest.raises(ValueError, match="privacy_loss"):
        plot_loss_distribution([0.0, 0.0])
    values = {"el2n": -losses[:500], "c_proxy": np.ones(500)}
    figure = plot_loss_against_proxies(losses[:500], values)
    assert [axes.get_title() for axes in figure.axes] == [
        "EL2N: rank correlation -1.00",
        "C-proxy: rank correlation undefined",
    ]
    figure = plot_loss_against_proxies(losses, {"el2n": np.linspace(0.0, 1.0, 502)})
    assert figure.axes[0].get_title().endswith("(2 not drawn)")  # a zero has no place on a logarithmic axis
    with pytest.raises(ValueError, match="proxies"):
        plot_loss_against_proxies(losses, {})
    with pytest.raises(ValueError, match="el2n"):
        plot_loss_against_proxies(losses, {"el2n": [1.0]})
    with pytest.raises(ValueError, match="privacy_loss must hold at least one"):
        plot_loss_against_proxies([], {"el2n": []})


@pytest.mark.parametrize(
    ("losses", "proxy"),
    [
        (np.geomspace(1e-4, 1.0, 500), np.full(500, np.inf)),
        (np.full(500, np.inf), np.linspace(0.0, 1.0, 500)),
    ],
)
def test_a_panel_without_points_says_so_and_has_no_ticks(losses, proxy):
    (axes,) = plot_loss_against_proxies(losses, {"loss": proxy}).axes
    assert axes.get_title() == "loss: rank correlation undefined (500 not drawn)"
    assert [text.get_text() for text in axes.texts] == ["no record has a place here"]
    for axis in (axes.xaxis, axes.yaxis):
        assert len(axis.get_ticklocs()) == 0
        assert len(axis.get_ticklocs(minor=True)) == 0


@pytest.mark.parametrize(("low", "high"), [(0.14, 5.0), (0.12, 9.0), (0.2, 8.0), (0.03, 3.0), (0.1, 25.0), (1e-9, 1e9)])
def test_labels_of_a_logarithmic_axis_do_not_overlap(low, high):
    losses, values = np.geomspace(1e-4, 1.0, 500), np.geomspace(low, high, 500)
    figure = plot_loss_against_proxies(losses, dict.fromkeys(("loss", "grand", "el2n"), values))
    figure.canvas.draw()
    axes = figure.axes[0]
    inside = axes.get_window_extent().intervalx
    boxes = [label.get_window_extent() for label in axes.get_xticklabels(which="both") if label.get_text()]
    boxes = sorted((box for box in boxes if inside[0] <= (box.x0 + box.x1) / 2 <= inside[1]), key=lambda box: box.x0)
    assert len(boxes) >= 2
    assert all(left.x1 < right.x0 for left, right in itertools.pairwise(boxes))


def test_a_panel_with_points_says_nothing_of_the_kind():
    losses = np.geomspace(1e-4, 1.0, 500)
    (axes,) = plot_loss_against_proxies(losses, {"el2n": np.linspace(0.0, 1.0, 500)}).axes
    assert not axes.texts
    assert axes.get_xticks().size
