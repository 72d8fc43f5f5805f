"""Passes on the workers of a Dask cluster: the bits of one process, for any shards and workers, some of them killed."""

from __future__ import annotations

import itertools
import os
import pickle
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

import expunge.data.blocks
import expunge.data.statistics
from cluster_work import Failing, Killing, Seeing
from clusters import BLOCK as B
from clusters import cluster_of
from expunge import NewtonLogisticRegression, NewtonRidge
from expunge.certificates import VerificationError
from expunge.certificates.residual import verify
from expunge.cli import main
from expunge.data import ArrayRecords, Constants, FileRecords, MappedRecords, Reading, Records, RidgeStatistics
from expunge.data.folding import fold
from expunge.runs.residual import gradient_sums
from expunge.scoring import ProbeCheckpoints, score_files

distributed = pytest.importorskip("distributed")

import dask  # noqa: E402

from expunge.distributed import Dask, this_machine  # noqa: E402
from expunge.distributed import engine as engine_module  # noqa: E402
from expunge.distributed.engine import ClusterEngine, _ranges  # noqa: E402
from expunge.distributed.machine import difference  # noqa: E402

# Sockets that the library of the cluster leaves to the garbage collector are its own business.
pytestmark = pytest.mark.filterwarnings("ignore:Exception ignored in. <socket:pytest.PytestUnraisableExceptionWarning")

RNG = np.random.default_rng(0)
N, P = 300, 3  # 19 blocks
X = RNG.normal(size=(N, P)).astype(np.float32)
Y = (X[:, 0] + 0.3 * RNG.normal(size=N) > 0).astype(np.int64)
IDS = RNG.permutation(N) + 1000
SPLITS = {1: [], 2: [123], 7: [1, 50, 51, 130, 222, 290]}


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (expunge.data.blocks, expunge.data.statistics):
        monkeypatch.setattr(module, "rows_per_block", lambda *, n_features: B)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dask]:
    with cluster_of(tmp_path_factory.mktemp("two"), 2) as client, Dask(client) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dask]:
    with cluster_of(tmp_path_factory.mktemp("one"), 1) as client, Dask(client) as cluster:
        yield cluster


def in_files(folder: Path, n: int = 2, ids: bool = True, rows: Any = slice(None)) -> FileRecords:
    for name, values in (("x", X), ("y", Y), ("ids", IDS)):
        (folder / name).mkdir(parents=True)
        kept = values[rows]
        for i, part in enumerate(np.split(kept, [at for at in SPLITS[n] if at < len(kept)])):
            np.save(folder / name / f"{i}.npy", part)
    return FileRecords(folder / "x", target=folder / "y", ids=folder / "ids" if ids else None)


def facts(records: Records) -> dict[str, Any]:
    """Return what passes over a table find, as bits."""
    statistics = RidgeStatistics.of(records, classes=[0, 1])
    theta = np.linspace(-1, 1, P)[None]
    residuals = np.empty((N, 1))
    sums = gradient_sums(records, theta, loss="logistic", residuals=residuals)
    model = NewtonLogisticRegression(classes=[0, 1], random_state=0).fit(records)
    state, quote = model._state, model.quote()
    report = verify(model.certificate_, records, evidence=model.evidence_, released=model.release())
    after = model.unlearn(IDS[[4, 77]].tolist() if records.has_ids else [4, 77])
    return {
        "digest": statistics.digest,
        "gram": statistics.gram().value.tobytes(),
        "moment": statistics.moment().value.tobytes(),
        "sums": (sums.gradient.tobytes(), sums.error, sums.magnitude, sums.loss, sums.correct, sums.depth),
        "residuals": residuals.tobytes(),
        "theta": state.theta.tobytes(),
        "released": model.coef_.tobytes(),
        "inverse": state.inverse.matrices.tobytes(),
        "quotes": [getattr(quote.costs, name).tobytes() for name in ("sensitivity_bound", "one_step_noise_bound")],
        "passes": quote.passes.tolist(),
        "bound": report.residual_bound,
        "left": after.model._state.tree.n_records,
        "certified": after.status,
    }


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    with pytest.MonkeyPatch.context() as patch:
        for module in (expunge.data.blocks, expunge.data.statistics):
            patch.setattr(module, "rows_per_block", lambda *, n_features: B)
        return facts(in_files(tmp_path_factory.mktemp("expected"), 1))


@pytest.mark.parametrize("shards", SPLITS)
def test_any_number_of_shards_and_workers_has_the_bits_of_one_process(
    tmp_path: Path, shards: int, one: Dask, two: Dask, expected: dict[str, Any]
) -> None:
    records = in_files(tmp_path, shards)
    assert facts(records) == expected
    for cluster in (one, two):
        assert facts(cluster.open_records(records)) == expected


def test_deletions_and_their_verification_are_those_of_one_process(tmp_path: Path, two: Dask) -> None:
    records = in_files(tmp_path / "all", 7)
    model = NewtonRidge(noise_std=1e-3).fit(two.open_records(records))
    result = model.unlearn(IDS[[0, 16, 299]].tolist())
    again = result.model.unlearn(IDS[[1]].tolist())
    kept = np.delete(np.arange(N), [0, 1, 16, 299])
    left = in_files(tmp_path / "left", 2, rows=kept)
    bounds = {
        verify(again.certificate, table, evidence=again.evidence, released=again.model.release()).residual_bound
        for table in (left, two.open_records(left))
    }
    assert len(bounds) == 1
    # Added rows lie in memory, and are worked on here; the others on the workers.
    more = ArrayRecords(X[:5] + 1, Y[:5], np.arange(5))
    assert again.model.add(more).model.quote().sensitivity.shape == (N - 4 + 5,)
    assert pickle.loads(pickle.dumps(model)).unlearn(rows=[0]).certificate.n_records == N - 1


def test_records_out_of_order_and_changed_ones_are_found_as_in_one_process(tmp_path: Path, two: Dask) -> None:
    model = NewtonRidge(noise_std=1e-3).fit(in_files(tmp_path / "all"))
    order = RNG.permutation(N)
    turned = two.open_records(in_files(tmp_path / "turned", 7, rows=order))
    given = {"evidence": model.evidence_, "released": model.release()}
    assert verify(model.certificate_, turned, **given).n_records == N
    fewer = two.open_records(in_files(tmp_path / "fewer", 7, rows=order[:-2]))
    with pytest.raises(VerificationError, match="missing") as caught:
        verify(model.certificate_, fewer, **given)
    assert all(str(one) in str(caught.value) for one in IDS[order[-2:]])


def test_a_table_that_is_mapped_is_mapped_by_the_workers(tmp_path: Path, two: Dask) -> None:
    reading = Reading(n_features=P, constants=Constants("divide_by", ((4.0,),)))
    mapped = MappedRecords(in_files(tmp_path), reading)
    digest = RidgeStatistics.of(mapped).digest
    assert RidgeStatistics.of(two.open_records(mapped)).digest == digest
    assert RidgeStatistics.of(MappedRecords(two.open_records(mapped.records), reading)).digest == digest
    part = RidgeStatistics.of(two.open_records(mapped), start=3, stop=8)
    assert part.ranges == ((3, 8),)


def test_scores_of_workers_are_the_bytes_of_one_process(
    tmp_path: Path, two: Dask, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("pyarrow")
    probe = ProbeCheckpoints(
        weights=RNG.normal(size=(3, P, 2)), steps=[0, 4, 8], loss="softmax", n_steps=10, noise_std=0.1, step_size=0.5,
        sampling_probability=0.1, batch_size=8.0,
    )  # fmt: skip
    for shards in SPLITS:
        folder = tmp_path / str(shards)
        in_files(folder, shards)
        monkeypatch.chdir(folder)
        given = {"labels": "y", "rows_per_part": 40, "progress": False}
        score_files("x", probe, folder / "here.parquet", **given)
        summary = score_files("x", probe, folder / "there.parquet", engine=two, **given)
        assert summary.rows == N
        assert (folder / "there.parquet").read_bytes() == (folder / "here.parquet").read_bytes()
    # A worker dies, the run is stopped, and the next one goes on from the parts that it finished.
    original, calls = ClusterEngine._result, itertools.count()

    def result(self: ClusterEngine, *arguments: Any) -> Any:
        number = next(calls)
        if number == 1:
            os.kill(next(iter(self._client.run(os.getpid).values())), signal.SIGKILL)
        if number == 4:
            raise KeyboardInterrupt
        return original(self, *arguments)

    monkeypatch.setattr(ClusterEngine, "_result", result)
    with pytest.raises(KeyboardInterrupt):
        score_files("x", probe, "again.parquet", engine=two, **given)
    assert score_files("x", probe, "again.parquet", engine=two, **given).resumed_parts == 4
    assert Path("again.parquet").read_bytes() == Path("here.parquet").read_bytes()
    looks = os.stat("x/0.npy")
    os.utime("x/0.npy", ns=(looks.st_atime_ns, looks.st_mtime_ns + 1))
    monkeypatch.setattr(engine_module, "_looks", lambda file: (looks.st_size, looks.st_mtime_ns))
    with pytest.raises(ValueError, match=r"0\.npy has been written to since .* \(on worker tcp://"):
        score_files("x", probe, "changed.parquet", engine=two, **given)


def test_the_command_scores_on_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pyarrow")
    in_files(tmp_path)
    monkeypatch.chdir(tmp_path)
    ProbeCheckpoints(
        weights=RNG.normal(size=(2, P, 2)), steps=[0, 4], loss="softmax", n_steps=10, noise_std=0.1, step_size=0.5,
        sampling_probability=0.1, batch_size=8.0,
    ).save("probe.npz")  # fmt: skip
    command = ["score", "x", "--labels", "y", "--checkpoints", "probe.npz", "--quiet", "--out"]
    for name, more in (("here", []), ("there", ["--scheduler", "local:1"])):
        done = CliRunner().invoke(main, [*command, f"{name}.parquet", *more])
        assert done.exit_code == 0, done.output
    assert Path("here.parquet").read_bytes() == Path("there.parquet").read_bytes()
    refused = CliRunner().invoke(main, [*command, "no.parquet", "--scheduler", "local:1", "--shard", "1/2"])
    assert refused.exit_code == 2
    assert "--shard must be omitted with --scheduler" in refused.output


# --- workers that are lost ------------------------------------------------------------------------


def notes_in(folder: Path, n: int) -> Path:
    """Return a folder with so many notes, each the death of a worker."""
    notes = folder / "notes"
    notes.mkdir()
    for number in range(n):
        (notes / str(number)).touch()
    return notes


@pytest.mark.parametrize("row", [0, 9 * B, 18 * B])
def test_a_worker_that_is_killed_changes_no_bit(tmp_path: Path, two: Dask, row: int) -> None:
    records, notes = in_files(tmp_path, 7), notes_in(tmp_path, 1)
    found = fold(two.open_records(records), Killing(str(notes), row))
    assert not list(notes.iterdir())  # somebody died
    wanted = fold(records, Killing(str(notes), row))
    assert found.tobytes() == wanted.tobytes()


def test_a_fit_during_which_a_worker_is_killed_has_the_same_bits(
    tmp_path: Path, two: Dask, expected: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    pids, client = [], two._engine._client
    original, passes = ClusterEngine._result, itertools.count()

    def result(self: ClusterEngine, part: Sequence[int], future: Any) -> Any:
        if next(passes) % 60 == 7:  # in the middle of passes of every kind
            pid = next(iter(client.run(os.getpid).values()))
            pids.append(pid)
            os.kill(pid, signal.SIGKILL)
        return original(self, part, future)

    monkeypatch.setattr(ClusterEngine, "_result", result)
    assert facts(two.open_records(in_files(tmp_path, 7))) == expected
    assert len(set(pids)) >= 3


def test_a_block_that_kills_every_worker_is_given_up_and_named(tmp_path: Path) -> None:
    records, notes = in_files(tmp_path), notes_in(tmp_path, 50)
    # A cluster of its own: keepers whose workers die again and again may start no more.
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 1}),
        cluster_of(tmp_path, 2) as client,
    ):
        two = Dask(client)
        # Tasks that waited on the same workers may be given up before the one that kills them.
        with pytest.raises(
            RuntimeError, match=r"blocks? \d+( to \d+)? of the table: 2 workers died that had been given"
        ):
            fold(two.open_records(records), Killing(str(notes), 9 * B))
        assert len(list(notes.iterdir())) <= 48
        for note in notes.iterdir():
            note.unlink()
        fold(two.open_records(records), Killing(str(notes), 9 * B))  # the cluster goes on


def test_a_cluster_without_workers_is_waited_for_no_longer_than_said(tmp_path: Path) -> None:
    with (
        cluster_of(tmp_path, 0) as client,
        pytest.raises(RuntimeError, match=r"has had no worker for 0\.2 seconds"),
    ):
        Dask(client, patience=0.2)
    with cluster_of(tmp_path, 1) as client, Dask(client, patience=0.2) as cluster:
        records = cluster.open_records(in_files(tmp_path))
        client.cluster.scale(0)
        while client.nthreads():
            time.sleep(0.05)
        with pytest.raises(RuntimeError, match="has had no worker for"):
            RidgeStatistics.of(records)


# --- what workers are told ------------------------------------------------------------------------


def test_tasks_take_one_thread_each_and_as_many_run_as_a_worker_has_threads(tmp_path: Path) -> None:
    with cluster_of(tmp_path, 1, threads=2) as client, Dask(client) as cluster:
        assert cluster.n_threads == 2
        seen = fold(cluster.open_records(in_files(tmp_path)), Seeing(), given=lambda number: number)
    assert [one[-1] for one in seen] == list(range(19))
    assert {(threads, blas) for _, threads, blas, *_ in seen} == {(1, 1)}
    edges = sorted([(begun, 1) for *_, begun, _, _ in seen] + [(ended, -1) for *_, ended, _ in seen])
    assert max(itertools.accumulate(step for _, step in edges)) == 2


def test_no_row_no_key_no_noise_and_no_model_is_sent(
    tmp_path: Path, two: Dask, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[bytes] = []
    original = ClusterEngine._submit

    def submit(self: ClusterEngine, key: str, function: Any, *arguments: Any) -> Any:
        sent.append(b"".join(one if isinstance(one, bytes) else pickle.dumps(one) for one in arguments if not
                             isinstance(one, distributed.Future)))  # fmt: skip
        return original(self, key, function, *arguments)

    monkeypatch.setattr(ClusterEngine, "_submit", submit)
    model = NewtonLogisticRegression(classes=[0, 1]).fit(two.open_records(in_files(tmp_path)))
    model.quote()
    after = model.unlearn(rows=[5]).model
    state, everything = model._state, b"".join(sent)
    for secret in (state.tree.key, state.ledger_salt, (state.released - state.theta).tobytes()):
        assert secret not in everything
    assert after._state.released.tobytes() not in everything
    assert all(row.tobytes() not in everything and row.astype(float).tobytes() not in everything for row in X)
    # The check can fail: parameters, and salts of the rows that are compared, are sent.
    assert state.theta.tobytes() in everything
    assert state.tree.salts[0].tobytes() in everything


def test_rows_in_memory_and_names_that_depend_on_a_folder_are_refused(
    tmp_path: Path, two: Dask, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(TypeError, match="rows in this process's memory, which are sent to nobody"):
        two.open_records(ArrayRecords(X, Y))
    in_files(tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="must be opened by an absolute path"):
        two.open_records(FileRecords("x", target="y"))
    assert RidgeStatistics.of(two.open_records("x", target="y")).n_records == N


def test_a_shard_that_changes_is_named_with_the_worker(tmp_path: Path, two: Dask) -> None:
    records = two.open_records(in_files(tmp_path))
    RidgeStatistics.of(records)
    place = tmp_path / "x" / "1.npy"
    np.save(place, np.load(place) + 1)
    with pytest.raises(ValueError, match=r"1\.npy has been written to since .*\(on worker tcp://.*\)"):
        RidgeStatistics.of(records)
    place.unlink()
    with pytest.raises(FileNotFoundError, match=r"1\.npy is missing: .*\(on worker tcp://.*\)"):
        RidgeStatistics.of(records)


def test_errors_of_workers_are_those_of_one_process(tmp_path: Path, two: Dask) -> None:
    records = two.open_records(in_files(tmp_path))
    for error in (VerificationError("digests.data", "is another"), ZeroDivisionError("x"), TypeError("no")):
        with pytest.raises(type(error)) as caught:
            fold(records, Failing(error))
        assert str(caught.value).startswith(str(error))
        assert getattr(caught.value, "field", None) == getattr(error, "field", None)
    model = NewtonRidge().fit(in_files(tmp_path / "text"))
    names = open_text(tmp_path / "named", two)
    with pytest.raises(VerificationError, match="ids must be whole numbers") as refuted:
        verify(model.certificate_, names, evidence=model.evidence_)
    assert refuted.value.field == "digests.data"


def open_text(folder: Path, cluster: Dask) -> Records:
    in_files(folder)
    for place in (folder / "ids").iterdir():
        np.save(place, np.load(place).astype(str))
    return cluster.open_records(folder / "x", target=folder / "y", ids=folder / "ids")


# --- workers that compute otherwise ---------------------------------------------------------------


def test_a_difference_is_said_with_its_remedy() -> None:
    here = this_machine()
    assert difference(here, here) == ""
    for change, words in (
        ({"expunge": "0.0.1"}, "has expunge 0.0.1, and this process .*: install the same version"),
        ({"numpy": "1.0"}, "has numpy 1.0"),
        ({"isa": "base"}, "EXPUNGE_ISA=base"),
        ({"blas": ("openblas 1 Haswell",)}, "OPENBLAS_CORETYPE"),
        ({"probe": "0" * 64}, "NPY_DISABLE_CPU_FEATURES"),
    ):
        other = replace(here, **change)
        if other != here:
            assert re.search(words, difference(here, other)), change


def test_workers_at_another_instruction_set_are_refused_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if this_machine().isa == "base":
        pytest.skip("this process runs the kernels at the lowest instruction set")
    monkeypatch.setenv("EXPUNGE_ISA", "base")  # Dask's pre-spawn-environ would leave it to workers of later tests
    with cluster_of(tmp_path, 1) as client:
        with pytest.raises(
            RuntimeError, match=r"worker tcp://\S+ runs the kernels .* start both with EXPUNGE_ISA=base"
        ):
            Dask(client)
        # One that comes later is found out by its first task.
        engine = ClusterEngine(client, patience=10)
        with pytest.raises(RuntimeError, match=r"this worker runs the kernels at instruction set base.*on worker tcp"):
            engine.fold(in_files(tmp_path), Seeing(), range(2), None)


def test_the_probe_sees_another_instruction_set() -> None:
    if this_machine().isa == "base":
        pytest.skip("this process runs the kernels at the lowest instruction set")
    code = "from expunge.distributed import this_machine; print(this_machine().probe)"
    found = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "EXPUNGE_ISA": "base"},
        capture_output=True,
        check=True,
        text=True,
    )
    assert found.stdout.strip() not in ("", this_machine().probe)


def test_schedulers_that_are_none_are_refused() -> None:
    for scheduler, error, words in (
        ("local:0", ValueError, "must be 'local:N' with N >= 1"),
        ("local:x", ValueError, "must be 'local:N'"),
        ("somewhere", ValueError, "an address such as tcp://host:8786"),
        (3, TypeError, "got int"),
        ("tcp://127.0.0.1:9", RuntimeError, "there is no scheduler at tcp://127.0.0.1:9"),
    ):
        with pytest.raises(error, match=words):
            Dask(scheduler, patience=1.0)  # type: ignore[arg-type]


def test_workers_keep_memory_that_a_step_has_freed(two: Dask) -> None:
    """Pages are touched for the first time once, and not at every step."""

    def faults(keep: bool) -> int:
        import resource

        from expunge.distributed.memory import keep_freed_memory

        if keep and not keep_freed_memory():
            return 0  # no glibc
        before = 0
        for number in range(20):
            if number == 10:
                before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            np.ones(1 << 17).sum()  # 1 MiB: 256 pages
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    client = two._engine._client
    assert max(client.run(faults, True).values()) < 256


# --- ranges ---------------------------------------------------------------------------------------


@given(st.integers(1, 300), st.integers(1, 9), st.integers(0, 2**24))
def test_ranges_are_aligned_hold_every_block_once_and_leave_work_for_all(n: int, slots: int, size: int) -> None:
    ranges = list(_ranges(range(n), slots, size))
    assert [number for part in ranges for number in part] == list(range(n))
    lengths = {len(part) for part in ranges[:-1]}
    assert len(lengths) <= 1
    assert all(length & (length - 1) == 0 for length in lengths)
    assert len(ranges) >= min(n, 4 * slots)
    assert all(len(part) == 1 or len(part) * size <= 2**23 for part in ranges)


def test_connections_do_not_keep_what_tasks_were_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()  # the workers of "local:1" know nothing of small blocks
    work = Seeing(seconds=0.0)
    with Dask("local:1") as cluster:
        table = cluster.open_records(in_files(tmp_path))
        for _ in range(12):
            fold(table, work, given=lambda number: bytes(1000))
        assert cluster._cluster is not None
        scheduler = cluster._cluster.scheduler
        streams = [cluster._client.scheduler_comm, *scheduler.stream_comms.values()]
        assert len(streams) == 2  # of the client to its scheduler, and of that to its worker
        for stream in streams:
            assert len(stream.recent_message_log) <= 10
            assert stream.batch_count > 10  # there was more to keep
