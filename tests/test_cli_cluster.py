"""Commands with --scheduler: the results of one process, to the bit, whoever works on the table and dies of it."""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clusters import BLOCK, cluster_of
from command_calls import refused, run
from expunge.certificates import Certificate
from expunge.cli.files import load_model
from expunge.data import blocks

distributed = pytest.importorskip("distributed")
pa = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")

from expunge.distributed.engine import ClusterEngine  # noqa: E402

# Sockets that the library of the cluster leaves to the garbage collector are its own business.
pytestmark = pytest.mark.filterwarnings("ignore:Exception ignored in. <socket:pytest.PytestUnraisableExceptionWarning")

RNG = np.random.default_rng(0)
N = 96
X = RNG.normal(size=(N, 3)).round(3)
TABLE = {"who": np.arange(N) // 2 + 1000, "a": X[:, 0], "b": X[:, 1], "c": X[:, 2],
         "word": np.where(X[:, 0] + 0.3 * RNG.normal(size=N) > 0, "yes", "no")}  # fmt: skip
READ = ["--id-column", "who", "--target-column", "word", "--classes", "no,yes", "--divide-by", "3"]
LANGEVIN = ["--model", "langevin-ridge", "--step-size", "1e-3", "--n-steps", "2000", "--noise-std", "1e-4"]
LARGE = blocks._BLOCK_BYTES
ROUTES = {"residual": ["--noise-std", "0.1"], "langevin": LANGEVIN}


@pytest.fixture(autouse=True)
def _fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # nothing of a test needs to outlive the machine
    monkeypatch.setattr(blocks, "_BLOCK_BYTES", BLOCK * 8 * 3)  # as many rows as those of the workers have
    monkeypatch.setattr(blocks, "_LEAST", BLOCK)
    Path("all").mkdir()
    for i, part in enumerate(np.array_split(np.arange(N), 5)):
        parquet.write_table(pa.table({name: v[part] for name, v in TABLE.items()}), f"all/part-{i}.parquet")


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with cluster_of(tmp_path_factory.mktemp("two"), 2) as client:
        yield client


def facts(route: str, name: str, *scheduler: str) -> dict[str, Any]:
    """Return what commands find and write, as bits."""
    residual, data = route == "residual", ["--data", "all", *scheduler]
    certificate = ["-c", f"{name}0.json"] if residual else []
    run("fit", "all", *READ, *ROUTES[route], "--random-state", "0", *scheduler, "-o", f"{name}0.npz", *certificate)
    run("quote", f"{name}0.npz", *data, "--by-id", "-o", f"{name}.json")
    run("unlearn", f"{name}0.npz", *data, "--id", "1007", "--id", "1030", "-o", f"{name}1.npz", "-c", f"{name}1.json")
    before, after = load_model(f"{name}0.npz"), load_model(f"{name}1.npz")
    found = {"fitted": before.coef_.tobytes(), "quote": Path(f"{name}.json").read_bytes()}
    if residual:
        run("verify", f"{name}0.json", "all", "--evidence", f"{name}0.npz", *scheduler)
        return found | {"theta": before._state.theta.tobytes(), "later": after._state.theta.tobytes()}
    run("verify", f"{name}1.json", "all", "--model", f"{name}1.npz", *scheduler)
    proof = Certificate.load(f"{name}1.json")
    sums = [model._history.sums for model in (before, after)]
    return found | {
        "sums": [(one.digest, one.gram.value.tobytes(), one.moment.value.tobytes()) for one in sums],
        "claim": (proof.delta_pq, proof.delta_qp, proof.run.phases, proof.digests.X, proof.digests.y),
    }


@pytest.mark.parametrize("route", ROUTES)
def test_workers_find_what_one_process_finds_and_one_may_die(route, client, monkeypatch):
    expected = facts(route, "here")
    client.wait_for_workers(2)
    pids: list[int] = []
    original, calls = ClusterEngine._result, itertools.count()

    def result(self: ClusterEngine, *arguments: Any) -> Any:
        if next(calls) == 3:  # in the middle of a pass of the fit
            pids.append(next(iter(client.run(os.getpid).values())))
            os.kill(pids[0], signal.SIGKILL)
        return original(self, *arguments)

    monkeypatch.setattr(ClusterEngine, "_result", result)
    assert facts(route, "there", "--scheduler", client.scheduler.address) == expected
    assert len(pids) == 1


def test_a_command_starts_processes_of_its_own_and_ends_them(monkeypatch):
    monkeypatch.setattr(blocks, "_BLOCK_BYTES", LARGE)  # as they are in these processes
    seen, original = [], ClusterEngine.require_same
    monkeypatch.setattr(ClusterEngine, "require_same", lambda self: seen.append(self._client) or original(self))
    options = [*READ, *LANGEVIN, "--random-state", "0"]
    run("fit", "all/part-0.parquet", "--stream", *options, "-o", "here.npz")
    run("fit", "all/part-0.parquet", *options, "--scheduler", "local:1", "-o", "there.npz")
    assert load_model("here.npz").coef_.tobytes() == load_model("there.npz").coef_.tobytes()
    assert [one.status for one in seen] == ["closed"]


def test_what_workers_cannot_read_is_refused(client):
    workers = ["--scheduler", client.scheduler.address]
    options = [*READ, *LANGEVIN, *workers, "-o", "x.npz"]
    refused("fit", "all", "--in-memory", *options, match="--in-memory must be omitted with --scheduler")
    np.savez("a.npz", X=X, y=TABLE["word"])
    refused(
        "fit", "a.npz", *LANGEVIN, *workers, "-o", "x.npz", match="--scheduler is for files and folders of .parquet"
    )
    run("fit", "all/part-0.parquet", *READ, *LANGEVIN, "-o", "rows.npz")
    refused("quote", "rows.npz", *workers, match="--scheduler is for models of tables")
    refused("fit", "all", *READ, *LANGEVIN, "--scheduler", "local:0", "-o", "x.npz", match="must be 'local:N' with N")
