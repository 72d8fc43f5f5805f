"""Scoring by many processes: the merged file is that of one process, or a shard is refused by its name."""

import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from click.testing import CliRunner

from expunge.cli import main
from expunge.scoring import BadRowError, ProbeCheckpoints, merge_shards, score_files, score_shard

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

D, C = 5, 3
linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="processes are killed")


def make_probe(seed=0):
    weights = np.random.default_rng(seed).normal(size=(2, D, C))
    return ProbeCheckpoints(
        weights=weights, steps=[0, 30], loss="softmax", n_steps=40, noise_std=0.05, step_size=0.3,
        sampling_probability=0.1, batch_size=20.0,
    )  # fmt: skip


def write_parquet(path, n=500, *, rows_per_group=37, seed=1, bad=()):
    rng = np.random.default_rng(seed)
    X, y = rng.normal(size=(n, D)), rng.integers(0, C, n)
    X[list(bad), 2] = np.nan
    names = pa.array([f"id-{i}" for i in range(n)])
    lists = pa.FixedSizeListArray.from_arrays(pa.array(X.reshape(-1)), D)
    pq.write_table(pa.table({"name": names, "features": lists, "label": y}), path, row_group_size=rows_per_group)
    return path


def score_all(source, folder, n_shards, *, order=None, probe=None, **more):
    for shard in order or range(1, n_shards + 1):
        score_shard(source, probe or make_probe(), folder, shard=shard, n_shards=n_shards, progress=False, **more)


@pytest.fixture
def shards(tmp_path):
    source = write_parquet(tmp_path / "d.parquet")
    score_all(source, tmp_path / "shards", 3)
    return tmp_path / "shards"


@pytest.mark.parametrize("n_shards", [1, 2, 7, 16])
@pytest.mark.parametrize("layout", ["parquet", "npy"])
def test_any_number_of_shards_gives_the_scores_of_one_process(tmp_path, layout, n_shards):
    common = {"keep_norms": True, "on_bad_rows": "null", "orders": [3.0, 2.0]}
    if layout == "parquet":
        source = write_parquet(tmp_path / "d.parquet", bad=[3, 499])
        common["record_id"] = "name"
    else:
        source = tmp_path / "x.npy"
        rng = np.random.default_rng(0)
        X = rng.normal(size=(500, D)).astype(np.float32)
        X[[3, 499]] = np.inf
        np.save(source, X)
        np.save(tmp_path / "y.npy", rng.integers(0, C, 500))
        common |= {"labels": tmp_path / "y.npy", "rows_per_part": 41}
    score_files(source, make_probe(), tmp_path / "one.parquet", progress=False, **common)
    order = np.random.default_rng(n_shards).permutation(np.arange(1, n_shards + 1)).tolist()
    score_all(source, tmp_path / "shards", n_shards, order=order, **common)
    found = merge_shards(tmp_path / "shards", tmp_path / "many.parquet", progress=False)
    one, many = pq.read_table(tmp_path / "one.parquet"), pq.read_table(tmp_path / "many.parquet")
    assert one.equals(many)
    assert one.schema.names == many.schema.names
    assert (found.rows, found.bad_rows, found.parts, found.resumed_parts) == (500, 2, n_shards, 0)
    assert not list(tmp_path.glob("*.parts"))
    again = merge_shards(tmp_path / "shards", tmp_path / "many.parquet", progress=False)
    assert again.resumed_parts == n_shards


def test_shares_are_nearly_equal_and_do_not_overlap(tmp_path):
    source = write_parquet(tmp_path / "d.parquet", 1000, rows_per_group=10)
    score_all(source, tmp_path / "shards", 7)
    files = [tmp_path / "shards" / f"shard-{i}-of-7.parquet" for i in range(1, 8)]
    records = [pq.read_table(file).column("record").to_pylist() for file in files]
    assert [one for some in records for one in some] == list(range(1000))
    assert max(map(len, records)) - min(map(len, records)) <= 10


def test_copies_of_the_data_elsewhere_are_the_same_job_and_other_data_are_not(tmp_path):
    source = write_parquet(tmp_path / "d.parquet")
    (tmp_path / "elsewhere").mkdir()
    copy = shutil.copyfile(source, tmp_path / "elsewhere" / "d.parquet")
    os.utime(copy, (1, 1))
    for shard, file in ((1, source), (2, copy)):
        score_shard(file, make_probe(), tmp_path / "shards", shard=shard, n_shards=2, progress=False)
    assert merge_shards(tmp_path / "shards", tmp_path / "o.parquet", progress=False).rows == 500
    write_parquet(copy, seed=2)
    score_shard(copy, make_probe(), tmp_path / "shards", shard=2, n_shards=2, progress=False, overwrite=True)
    with pytest.raises(ValueError, match=r"shard-2-of-2\.parquet .* is of another job than .*shard-1-of-2\.parquet"):
        merge_shards(tmp_path / "shards", tmp_path / "o.parquet", progress=False, overwrite=True)


@pytest.mark.parametrize(("name", "row"), [("x.npy", 0), ("x.npy", 499), ("y.npy", 0)])
def test_copies_that_differ_at_either_end_are_other_data(tmp_path, monkeypatch, name, row):
    monkeypatch.setattr("expunge.scoring.job._END", 1000)
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(500, D)).astype(np.float32), rng.integers(0, C, 500)
    for shard, folder in ((1, tmp_path / "here"), (2, tmp_path / "there")):
        folder.mkdir()
        np.save(folder / "x.npy", X)
        np.save(folder / "y.npy", y)
        score_all(folder / "x.npy", tmp_path / "shards", 2, order=[shard], labels=folder / "y.npy", rows_per_part=41)
        changed = X if name == "x.npy" else y  # for the second shard
        changed[row] = (changed[row] + 1) % C
    with pytest.raises(ValueError, match=r"shard-2-of-2\.parquet .* is of another job than .*shard-1-of-2\.parquet"):
        merge_shards(tmp_path / "shards", tmp_path / "o.parquet", progress=False)


@pytest.mark.parametrize("change", [{"probe": make_probe(1)}, {"orders": [2.5]}])
def test_shards_of_another_job_are_refused(tmp_path, shards, change):
    score_all(tmp_path / "d.parquet", shards, 3, order=[2], overwrite=True, **change)
    with pytest.raises(ValueError, match=r"shard-2-of-3\.parquet \(shard 2 of 3\) is of another job"):
        merge_shards(shards, tmp_path / "o.parquet", progress=False)
    assert not (tmp_path / "o.parquet").exists()


def test_a_shard_with_bad_rows_goes_with_others_that_have_none(tmp_path):
    source = write_parquet(tmp_path / "d.parquet", bad=[400])
    score_all(source, tmp_path / "shards", 3, order=[1, 2])
    with pytest.raises(BadRowError, match=r"--on-bad-rows null"):
        score_all(source, tmp_path / "shards", 3, order=[3])
    score_all(source, tmp_path / "shards", 3, on_bad_rows="null")  # those that are done stay as they are
    assert merge_shards(tmp_path / "shards", tmp_path / "o.parquet", progress=False).bad_rows == 1


def test_shards_of_another_number_of_shards_are_refused(tmp_path, shards):
    score_all(tmp_path / "d.parquet", shards, 4, order=[4])
    with pytest.raises(ValueError, match=r"shard-4-of-4\.parquet \(shard 4 of 4\) is of another job"):
        merge_shards(shards, tmp_path / "o.parquet", progress=False)


def test_missing_and_unfinished_shards_are_named(tmp_path, shards):
    for number in (1, 3):
        (shards / f"shard-{number}-of-3.parquet").unlink()
    (shards / "shard-3-of-3.parquet.parts").mkdir()
    with pytest.raises(FileNotFoundError, match=r"lacks shards 1, 3 of 3 \(unfinished: 3\): score them first"):
        merge_shards(shards, tmp_path / "o.parquet", progress=False)
    (shards / "shard-2-of-3.parquet").unlink()
    with pytest.raises(FileNotFoundError, match=r"holds no finished shard \(unfinished: 3\)"):
        merge_shards(shards, tmp_path / "o.parquet", progress=False)
    with pytest.raises(FileNotFoundError, match="no folder of shards"):
        merge_shards(tmp_path / "nowhere", tmp_path / "o.parquet", progress=False)
    assert not list(tmp_path.glob("o.parquet*"))


def test_a_shard_that_is_there_twice_is_named(tmp_path, shards):
    shutil.copyfile(shards / "shard-2-of-3.parquet", shards / "shard-2-of-3 (copy).parquet")
    with pytest.raises(
        ValueError, match=r"shard-2-of-3 \(copy\)\.parquet and .*shard-2-of-3\.parquet are both shard 2"
    ):
        merge_shards(shards, tmp_path / "o.parquet", progress=False)


def test_what_is_no_shard_is_named_and_hidden_files_are_not(tmp_path, shards):
    (shards / "_note.txt").write_text("x")
    (shards / ".hidden").mkdir()
    merge_shards(shards, tmp_path / "o.parquet", progress=False)
    shutil.copyfile(tmp_path / "o.parquet", shards / "other.parquet")  # scores, but of no shard
    with pytest.raises(ValueError, match=r"other\.parquet is no shard, but another Parquet file"):
        merge_shards(shards, tmp_path / "p.parquet", progress=False)
    (shards / "other.parquet").rename(shards / "other.txt")
    with pytest.raises(ValueError, match=r"other\.txt is no shard: move it away"):
        merge_shards(shards, tmp_path / "p.parquet", progress=False)


@pytest.mark.parametrize("keep", [0, 3, 0.4, 0.999])
def test_half_written_shards_are_named(tmp_path, shards, keep):
    file = shards / "shard-3-of-3.parquet"
    data = file.read_bytes()
    file.write_bytes(data[: keep if isinstance(keep, int) else int(keep * len(data))])
    with pytest.raises(ValueError, match=r"shard-3-of-3\.parquet is not a whole file of scores"):
        merge_shards(shards, tmp_path / "o.parquet", progress=False)
    assert not list(tmp_path.glob("o.parquet"))


def test_a_changed_bit_in_a_page_is_named_and_nothing_is_written(tmp_path, shards):
    file = shards / "shard-2-of-3.parquet"
    whole = file.read_bytes()
    group = pq.ParquetFile(file).metadata.row_group(0)
    for name in ("privacy_loss_2", "grand"):  # one that is ranked, one that is copied
        column = group.column(pq.ParquetFile(file).schema_arrow.names.index(name))
        at = column.data_page_offset + column.total_compressed_size - 3
        data = bytearray(whole)
        data[at] ^= 1
        file.write_bytes(data)
        with pytest.raises(
            ValueError, match=r"shard-2-of-3\.parquet is not a whole file of scores: .*(?i:crc|checksum)"
        ):
            merge_shards(shards, tmp_path / "o.parquet", progress=False, restart=True)
        assert not (tmp_path / "o.parquet").exists()
    file.write_bytes(whole)
    assert merge_shards(shards, tmp_path / "o.parquet", progress=False).rows == 500


def test_shards_whose_rows_do_not_follow_on_each_other_are_named(tmp_path, shards):
    file = shards / "shard-2-of-3.parquet"
    table = pq.read_table(file)
    facts = table.schema.metadata[b"expunge"].replace(b'"first_record": ', b'"first_record": 1')
    pq.write_table(table.replace_schema_metadata({b"expunge": facts}), file)
    with pytest.raises(ValueError, match=r"shard-2-of-3\.parquet must begin with record"):
        merge_shards(shards, tmp_path / "o.parquet", progress=False)


def test_bad_arguments_are_named(tmp_path, shards):
    source = tmp_path / "d.parquet"
    with pytest.raises(ValueError, match=r"shard must be within \[1, 3\], got 4"):
        score_all(source, shards, 3, order=[4])
    with pytest.raises(ValueError, match="shard must be >= 1"):
        score_all(source, shards, 3, order=[0])
    with pytest.raises(ValueError, match=r"out .* must not lie in the folder of shards"):
        merge_shards(shards, shards / "o.parquet", progress=False)
    with pytest.raises(FileExistsError, match="already exists"):
        merge_shards(shards, source, progress=False)
    with pytest.raises(FileExistsError, match="already exists"):
        score_all(source, shards, 3, order=[2], orders=[4.0])
    bad = write_parquet(tmp_path / "bad.parquet", bad=[100])
    with pytest.raises(BadRowError, match=r"bad\.parquet, row 100"):
        score_all(bad, tmp_path / "others", 3, order=[1])
    score_all(bad, tmp_path / "others", 3, order=[2, 3])  # which do not have that row


CHILD = """
import sys
from expunge.scoring import ProbeCheckpoints, merge_shards, score_shard
place, what = sys.argv[1:]
if what == "merge":
    merge_shards(place + "/shards", place + "/o.parquet", progress=False)
else:
    score_shard(place + "/d.parquet", ProbeCheckpoints.load(place + "/p.npz"), place + "/shards", shard=int(what),
                n_shards=2, progress=False, threads=1)
"""


def kill_at(folder, what, happened):
    """Start a process, kill it once something has happened, and return whether it was killed."""
    child = subprocess.Popen([sys.executable, "-c", CHILD, str(folder), what])
    while child.poll() is None and not happened():
        time.sleep(0.0005)
    child.send_signal(signal.SIGKILL)
    return child.wait() == -signal.SIGKILL


@linux
def test_killed_shards_and_merges_go_on_and_change_not_a_byte(tmp_path):
    calm = tmp_path / "calm"
    for folder in (calm, tmp_path):
        folder.mkdir(exist_ok=True)
        make_probe().save(folder / "p.npz")
    write_parquet(tmp_path / "d.parquet", 12_000, rows_per_group=300)
    shutil.copy2(tmp_path / "d.parquet", calm / "d.parquet")
    for folder in (calm, tmp_path):
        for what in ("1", "2", "merge"):
            parts = folder / ("o.parquet.parts" if what == "merge" else f"shards/shard-{what}-of-2.parquet.parts")
            if folder == tmp_path:
                wanted = parts / ("whole.tmp" if what == "merge" else "part-00000026.parquet")
                second = parts / "part-00000006.parquet"
                kills = kill_at(folder, what, lambda wanted=wanted, second=second: wanted.exists() or second.exists())
                assert kills
                if what != "merge":
                    with pytest.raises(FileNotFoundError, match="unfinished"):
                        merge_shards(folder / "shards", folder / "o.parquet", progress=False)
                assert not (folder / "o.parquet").exists()
            subprocess.run([sys.executable, "-c", CHILD, str(folder), what], check=True)
            assert not parts.exists()
    for name in ("shard-1-of-2.parquet", "shard-2-of-2.parquet"):
        one, other = pq.read_table(calm / "shards" / name), pq.read_table(tmp_path / "shards" / name)
        assert one.equals(other)
    assert (tmp_path / "o.parquet").read_bytes() == (calm / "o.parquet").read_bytes()


def test_command_line(tmp_path):
    source = write_parquet(tmp_path / "d.parquet")
    make_probe().save(tmp_path / "p.npz")
    out, folder = tmp_path / "o.parquet", tmp_path / "shards"

    def call(*arguments):
        return CliRunner().invoke(main, ["score", *map(str, arguments)])

    for i in (2, 1):
        done = call(
            source, "--checkpoints", tmp_path / "p.npz", "--out", folder, "--shard", f"{i}/2", "--record-id", "name"
        )
        assert done.exit_code == 0, done.output
        assert "records scored (estimates)" in done.output
    done = call("--merge", folder, "--out", out)
    assert done.exit_code == 0, done.output
    assert f"500 scores merged (estimates): {out}" in done.output
    assert "2 of 2 shards were merged before" in call("--merge", folder, "--out", out).output
    score_files(source, make_probe(), tmp_path / "one.parquet", record_id="name", progress=False)
    assert pq.read_table(out).equals(pq.read_table(tmp_path / "one.parquet"))
    if os.name == "posix":
        assert not [one for one in (folder, *folder.iterdir(), out) if one.stat().st_mode & 0o077]
    for arguments, problem in (
        ([source, "--merge", folder, "--out", out], "SOURCE is for scoring"),
        (["--merge", folder, "--out", out, "--norms"], "--norms is for scoring"),
        (["--out", out, "--checkpoints", tmp_path / "p.npz"], "SOURCE is missing"),
        ([source, "--out", out], "--checkpoints is missing"),
        ([source, "--checkpoints", tmp_path / "p.npz", "--out", folder, "--shard", "2"], "--shard must be I/K"),
        (
            [source, "--checkpoints", tmp_path / "p.npz", "--out", folder, "--shard", "3/2"],
            "shard must be within [1, 2]",
        ),
        (
            [source, "--checkpoints", tmp_path / "p.npz", "--out", folder, "--shard", "1/2", "--plots", "x"],
            "--plots is",
        ),
    ):
        refused = call(*arguments)
        assert refused.exit_code == 2
        assert problem in " ".join(refused.output.split()), refused.output
