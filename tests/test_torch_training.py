"""Training that collects norms: its steps against a loop of single examples, its windows, and exact resumption."""

import json
import math
import os
import re
import signal
import subprocess
import sys
import time
import zipfile

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the PyTorch backend needs expunge[torch]", exc_type=ImportError)

from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402, N812
from torch.utils.data import Dataset, Subset, TensorDataset  # noqa: E402

from expunge._files import FileFormatError  # noqa: E402
from expunge.accounting import (  # noqa: E402
    privacy_loss,
    quadrature_weights,
    sampled_gaussian_rdp,
)
from expunge.torch import (  # noqa: E402
    NonFiniteLossError,
    TrainingRun,
    UnsupportedLayerError,
    run_to_run_noise,
    train,
)
from expunge.torch.training.folder import RunFolder  # noqa: E402
from expunge.torch.training.sampling import Batches  # noqa: E402
from expunge.torch.training.schedule import checkpoint_steps, window_ends  # noqa: E402
from small_training import data, network, weights_of  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_torch_thread")


SETTINGS = {"step_size": 0.5, "batch_size": 12, "n_steps": 40, "n_checkpoints": 5, "alpha": 0.01, "progress": False}


def slow_run(model, x, y, *, step_size, batch_size, n_steps, alpha, clip, sampling, seed, noise=None, noise_std=0.0):
    """Train with one example at a time; return the norm of every visit, (step, row) -> norm."""
    batches = Batches(len(x), batch_size=batch_size, sampling=sampling, seed=seed)
    parameters = list(model.parameters())
    visits = {}
    for t in range(n_steps):
        total = [torch.zeros_like(p) for p in parameters]
        for i in batches(t):
            grads = torch.autograd.grad(F.cross_entropy(model(x[i : i + 1]), y[i : i + 1]), parameters)
            norm = math.sqrt(sum(float(g.square().sum()) for g in grads))
            visits[t, int(i)] = norm
            factor = 1.0 if clip is None else min(1.0, clip / norm)
            for sum_, g in zip(total, grads, strict=True):
                sum_ += factor * g
        with torch.no_grad():
            for k, (p, g) in enumerate(zip(parameters, total, strict=True)):
                p -= step_size * (g / batch_size + alpha * p)
                if noise is not None:
                    p += noise_std * noise(t)[k]
    return visits


@pytest.mark.parametrize("clip", [None, 0.4])
@pytest.mark.parametrize("sampling", ["poisson", "shuffle"])
def test_weights_norms_and_losses_are_those_of_a_loop_of_single_examples(clip, sampling):
    x, y = data()
    model, slow = network(), network()
    run = train(model, (x, y), clip=clip, sampling=sampling, seed=3, noise_std=0.0, **SETTINGS)
    settings = {k: SETTINGS[k] for k in ("step_size", "batch_size", "n_steps", "alpha")}
    visits = slow_run(slow, x, y, clip=clip, sampling=sampling, seed=3, **settings)
    torch.testing.assert_close(weights_of(model), weights_of(slow), rtol=1e-10, atol=1e-12)

    # Every record's norm in every window is that of its last visit, or carried.
    expected = np.full(run.grad_norms.shape, np.nan)
    when = np.full(run.grad_norms.shape, -1)
    for i in range(len(x)):
        for k, end in enumerate(run.marks):
            past = [t for t in range(end) if (t, i) in visits]
            if past:
                expected[i, k], when[i, k] = visits[past[-1], i], past[-1]
    seen = when >= 0
    np.testing.assert_allclose(run.grad_norms[seen], expected[seen], rtol=1e-9)
    np.testing.assert_array_equal(run.steps[seen], when[seen])
    starts = np.concatenate([[0], run.marks[:-1]])
    np.testing.assert_array_equal(run.carried, when < starts)
    np.testing.assert_array_equal(run.n_carried, (when < starts).sum(axis=0))

    # Privacy losses from them equal a sum over the loop's norms.
    losses = run.privacy_losses(order=3.0, assumed_noise_std=0.02)
    assert losses.status == "estimate"
    rate = SETTINGS["batch_size"] / len(x)
    for i in (0, 7, 59):
        steps = sorted({int(t) for t in when[i] if t >= 0})
        norms = np.array([visits[t, i] for t in steps])
        norms = norms if clip is None else np.minimum(norms, clip)
        costs = sampled_gaussian_rdp(3.0, 0.02 * 12 / (0.5 * norms), rate)
        assert losses[i] == pytest.approx(float(costs @ quadrature_weights(steps, n_steps=40)), rel=1e-8)


def test_all_records_at_the_same_weights():
    x, y = data()
    model = network()
    run = train(model, TensorDataset(x, y), collect="checkpoint", noise_std=0.05, **SETTINGS)
    assert run.collect == "checkpoint"
    assert run.collect_seconds > 0
    assert run.marks.tolist() == [0, 10, 20, 29, 39]
    assert not run.carried.any()
    start = network()
    for i in (0, 31):
        grads = torch.autograd.grad(F.cross_entropy(start(x[i : i + 1]), y[i : i + 1]), list(start.parameters()))
        assert run.grad_norms[i, 0] == pytest.approx(math.sqrt(sum(float(g.square().sum()) for g in grads)), rel=1e-9)
    p = torch.softmax(start(x).detach(), 1)
    np.testing.assert_allclose(run.columns["p_true"][:, 0], p[range(60), y].numpy(), rtol=1e-10)
    el2n = (p - F.one_hot(y, 3)).norm(dim=1)
    np.testing.assert_allclose(run.columns["el2n"][:, 0], el2n.numpy(), rtol=1e-9)
    expected = privacy_loss(
        run.grad_norms, order=[2.0, 4.0], noise_std=0.05, step_size=0.5, sampling_probability=0.2, batch_size=12,
        steps=run.marks, n_steps=40,
    )  # fmt: skip
    np.testing.assert_allclose(run.privacy_losses(order=[2.0, 4.0]), expected, rtol=1e-8)


def test_how_norms_are_collected_does_not_change_the_training():
    x, y = data()
    ends = []
    for collect in ("batch", "checkpoint", "none"):
        model = network()
        run = train(model, (x, y), collect=collect, noise_std=0.01, **SETTINGS)
        ends.append(weights_of(model))
        assert run.settings["collect"] == collect
    torch.testing.assert_close(ends[0], ends[1], rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(ends[0], ends[2], rtol=1e-9, atol=1e-12)
    with pytest.raises(ValueError, match="no grad_norms: it was trained with collect='none'"):
        run.privacy_losses()


def test_noise_has_its_standard_deviation_and_temperature_is_noise():
    x, y = data()
    model, other = network(), network()
    settings = {"step_size": 0.02, "batch_size": 60, "n_steps": 400, "collect": "none", "progress": False}
    zero = lambda output, target: 0.0 * output.sum(dim=1)  # noqa: E731
    train(model, (x, y), loss=zero, noise_std=math.sqrt(0.04) * 0.3, **settings)
    train(other, (x, y), loss=zero, temperature=0.3, **settings)
    assert torch.equal(weights_of(model), weights_of(other))
    moved = weights_of(model) - weights_of(network())
    # A sum of 400 normals; the variance over m weights has relative standard deviation sqrt(2/m).
    assert float(moved.square().mean()) == pytest.approx(400 * 0.04 * 0.09, rel=4 * math.sqrt(2 / len(moved)))


def test_noise_of_a_step_is_no_less_than_it_is_said_to_be():
    x, y = data()
    torch.manual_seed(0)
    model = nn.Linear(x.shape[1], 8000).to(x.dtype)
    before = weights_of(model).clone()
    zero = lambda output, target: 0.0 * output.sum(dim=1)  # noqa: E731
    train(model, (x, y), loss=zero, noise_std=0.3, step_size=0.02, batch_size=60, n_steps=3, collect="none",
          progress=False)  # fmt: skip
    moved = weights_of(model) - before
    # Of so many weights that a tenth less noise is six times the tolerance off.
    assert float(moved.square().mean()) == pytest.approx(3 * 0.3**2, rel=5 * math.sqrt(2 / len(moved)))


class Counted(Dataset):
    """Not a tensor dataset."""

    def __init__(self, x, y):
        self.x, self.y = x, y

    def __len__(self):
        return len(self.x)

    def __getitem__(self, row):
        return self.x[row], int(self.y[row])


def test_any_dataset_gives_the_same_run():
    x, y = data()
    ends = []
    wide = TensorDataset(torch.cat([x, x + 1]), torch.cat([y, y]))
    for dataset in ((x, y), TensorDataset(x, y), Counted(x, y), Subset(wide, range(60))):
        model = network()
        train(model, dataset, **SETTINGS)
        ends.append(weights_of(model))
    assert all(torch.equal(ends[0], end) for end in ends[1:])


def test_the_ridge_loss_agrees_with_the_closed_form():
    """On ridge written as a module: the norms along full-batch descent are ||x|| |r|, r from the exact recursion."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(30, 4, dtype=torch.float64, generator=generator)
    y = torch.randn(30, dtype=torch.float64, generator=generator)
    model = nn.Linear(4, 1, bias=False).double()
    nn.init.zeros_(model.weight)
    eta, alpha, steps = 0.3, 0.1, 25
    run = train(
        model, (x, y), loss=lambda output, target: 0.5 * (output[:, 0] - target).square(), step_size=eta, batch_size=30,
        n_steps=steps, n_checkpoints=steps, alpha=alpha, progress=False,
    )  # fmt: skip
    X, Y = x.numpy(), y.numpy()
    a = np.eye(4) - eta * (X.T @ X / 30 + alpha * np.eye(4))
    fixed = np.linalg.solve(X.T @ X / 30 + alpha * np.eye(4), X.T @ Y / 30)
    costs = np.zeros(30)
    tau = 0.05
    for t in range(steps):
        theta = fixed - np.linalg.matrix_power(a, t) @ fixed
        norms = np.linalg.norm(X, axis=1) * np.abs(X @ theta - Y)
        costs += 2.0 * (eta * norms / (30 * tau)) ** 2 / 2.0
    np.testing.assert_allclose(run.privacy_losses(order=2.0, assumed_noise_std=tau), costs, rtol=1e-9)


def test_proxies_come_out_of_the_same_run():
    x, y = data(n=80)
    y[::10] = (y[::10] + 1) % 3  # some are mislabelled
    run = train(network(), (x, y), sampling="shuffle", step_size=1.0, batch_size=8, epochs=30, progress=False)
    proxies = run.proxies()
    assert set(proxies) == {"average_grad_norm", "grand", "el2n", "c_proxy", "loss", "forgetting_events"}
    assert all(value.shape == (80,) and np.isfinite(value).all() for value in proxies.values())
    wrong = np.arange(80) % 10 == 0
    assert proxies["c_proxy"][wrong].mean() < proxies["c_proxy"][~wrong].mean()
    assert proxies["average_grad_norm"][wrong].mean() > proxies["average_grad_norm"][~wrong].mean()
    assert proxies["forgetting_events"].sum() > 0


def test_forgetting_events_count_correct_then_wrong():
    x, y = data(n=20)
    model, seen = network(), []

    def loss(output, target):
        seen.append((output.argmax(1) == target).detach().numpy())
        return F.cross_entropy(output, target, reduction="none")

    run = train(model, (x, y), loss=loss, step_size=8.0, batch_size=20, n_steps=60, progress=False)
    seen = np.array(seen)
    expected = (seen[:-1] & ~seen[1:]).sum(axis=0)
    assert expected.sum() > 0
    np.testing.assert_array_equal(run.forgetting_events, expected)


def test_a_record_never_visited_is_measured_at_the_end():
    x, y = data()
    model = network()
    run = train(model, (x, y), step_size=0.1, batch_size=2, n_steps=20, n_checkpoints=4, progress=False)
    assert 0 < run.never_visited.size < 60
    i = int(run.never_visited[0])
    grads = torch.autograd.grad(F.cross_entropy(model(x[i : i + 1]), y[i : i + 1]), list(model.parameters()))
    norm = math.sqrt(sum(float(g.square().sum()) for g in grads))
    np.testing.assert_allclose(run.grad_norms[i], norm, rtol=1e-9)
    assert np.isfinite(run.privacy_losses(assumed_noise_std=0.1)).all()


# --- where ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spacing", ["even", "geometric"])
@pytest.mark.parametrize(("n_steps", "n"), [(1, 35), (7, 35), (40, 5), (1000, 35), (36, 35)])
def test_windows_and_checkpoints_are_as_many_as_asked_and_increase(spacing, n_steps, n):
    ends = window_ends(n_steps=n_steps, n_windows=n, spacing=spacing)
    assert ends.size == min(n, n_steps)
    assert ends[0] >= 1
    assert ends[-1] == n_steps
    assert (np.diff(ends) > 0).all()
    steps = checkpoint_steps(n_steps=n_steps, n_checkpoints=n, spacing=spacing)
    assert steps.size == min(n, n_steps)
    assert steps[0] >= 0
    assert steps[-1] <= n_steps - 1
    assert (np.diff(steps) > 0).all()
    if spacing == "geometric" and n_steps == 1000:
        assert ends[-1] - ends[-2] > 10 * (ends[10] - ends[9])


def test_batches_are_poisson_or_a_pass():
    poisson = Batches(500, batch_size=50, sampling="poisson", seed=1)
    sizes = np.array([poisson(t).size for t in range(400)])
    assert sizes.mean() == pytest.approx(50, abs=4 * math.sqrt(45 / 400))
    assert sizes.var() == pytest.approx(45, rel=4 * math.sqrt(2 / 400))
    counts = np.bincount(np.concatenate([poisson(t) for t in range(400)]), minlength=500)
    assert counts.var() == pytest.approx(400 * 0.1 * 0.9, rel=4 * math.sqrt(2 / 500))
    shuffled = Batches(103, batch_size=20, sampling="shuffle", seed=1)
    for epoch in range(3):
        rows = np.concatenate([shuffled(6 * epoch + k) for k in range(6)])
        np.testing.assert_array_equal(np.sort(rows), np.arange(103))


# --- going on ---------------------------------------------------------------------------------------

SCRIPT = """
import time, torch
from torch import nn
from torch.nn import functional as F
from expunge.torch import train

def main(folder, wait, sampling, collect, clip):
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Dropout(0.2), nn.Linear(8, 3)).double()
    x = torch.randn(60, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    train(model, (x, torch.arange(60) % 3), loss=Loss(wait), step_size=0.5, batch_size=12, n_steps=60, n_checkpoints=6,
          alpha=0.01, noise_std=0.01, sampling=sampling, collect=collect, clip=clip, folder=folder, resume=True,
          save_seconds=0.03)

class Loss:
    def __init__(self, wait):
        self.wait = wait

    def __call__(self, output, target):
        time.sleep(self.wait)
        return F.cross_entropy(output, target, reduction="none")
"""


@pytest.mark.parametrize(("sampling", "collect", "clip"), [("poisson", "batch", None), ("shuffle", "checkpoint", 0.5)])
def test_a_killed_run_goes_on_to_the_same_bits(tmp_path, sampling, collect, clip):
    here = {"__name__": "__main__"}
    exec(SCRIPT, here)
    here["main"](tmp_path / "whole", 0.0, sampling, collect, clip)
    for columns in (1, 4):  # killed once it has this many columns, within the next window
        call = f"main({str(tmp_path / 'cut')!r}, 0.03, {sampling!r}, {collect!r}, {clip!r})"
        process = subprocess.Popen([sys.executable, "-c", f"{SCRIPT}\n{call}"])
        until = time.monotonic() + 300
        while len(list((tmp_path / "cut" / "columns").glob("[0-9].npz"))) < columns:
            assert process.poll() is None, "the run ended before it could be killed"
            assert time.monotonic() < until
            time.sleep(0.005)
        time.sleep(0.1)
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        assert not json.loads((tmp_path / "cut" / "run.json").read_text()).get("finished")
    here["main"](tmp_path / "cut", 0.0, sampling, collect, clip)
    whole, cut = TrainingRun.load(tmp_path / "whole"), TrainingRun.load(tmp_path / "cut")
    for name, value in whole.final_weights().items():
        assert torch.equal(value, cut.final_weights()[name])
    assert whole.columns.keys() == cut.columns.keys()
    for name in whole.columns:
        np.testing.assert_array_equal(whole.columns[name], cut.columns[name])
    np.testing.assert_array_equal(whole.forgetting_events, cut.forgetting_events)
    assert not (tmp_path / "cut" / "state.pt").exists()  # weights of the middle of training are not retained


def test_a_folder_holds_the_run_and_no_weights_along_it(tmp_path):
    x, y = data()
    model = network()
    run = train(model, (x, y), folder=tmp_path / "run", noise_std=0.01, **SETTINGS)
    loaded = TrainingRun.load(tmp_path / "run")
    np.testing.assert_array_equal(run.privacy_losses(), loaded.privacy_losses())
    assert not list((tmp_path / "run").glob("weights/*"))
    with pytest.raises(ValueError, match="weights were not kept"):
        loaded.weights(0)
    again = network(seed=1)
    train(again, (x, y), folder=tmp_path / "run", resume=True, noise_std=0.01, **SETTINGS)
    assert torch.equal(weights_of(again), weights_of(model))  # a finished run gives its weights

    kept = train(network(), (x, y), folder=tmp_path / "both", keep="both", noise_std=0.01, **SETTINGS)
    last = network()
    last.load_state_dict(kept.weights(-1))
    assert torch.equal(weights_of(last), weights_of(model))
    only = train(network(), (x, y), folder=tmp_path / "weights", keep="weights", noise_std=0.01, **SETTINGS)
    assert only.collect == "none"
    assert len(list((tmp_path / "weights" / "weights").iterdir())) == 5


def test_nothing_is_overwritten_and_nothing_foreign_continued(tmp_path):
    x, y = data()
    settings = {**SETTINGS, "folder": tmp_path / "run"}
    train(network(), (x, y), **settings)
    before = (tmp_path / "run" / "run.json").read_bytes()
    with pytest.raises(FileExistsError, match="resume=True"):
        train(network(), (x, y), **settings)
    with pytest.raises(ValueError, match=r"length changed.*60 records.*59"):
        train(network(), (x[1:], y[1:]), resume=True, **settings)
    with pytest.raises(ValueError, match="dataset: its content"):
        train(network(), (x + 1, y), resume=True, **settings)
    with pytest.raises(ValueError, match=r"another model: 3\.weight was float64 \(3, 8\) and is float64 \(4, 8\)"):
        train(network(classes=4), (x, y), resume=True, **settings)
    with pytest.raises(ValueError, match=r"step_size: .* started with 0.5, got 0.25"):
        train(network(), (x, y), resume=True, **{**settings, "step_size": 0.25})
    assert (tmp_path / "run" / "run.json").read_bytes() == before
    train(network(), (x, y), overwrite=True, **{**settings, "step_size": 0.25})
    assert TrainingRun.load(tmp_path / "run").settings["step_size"] == 0.25

    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.tex").write_text("mine")
    with pytest.raises(FileExistsError, match="not a training run's"):
        train(network(), (x, y), overwrite=True, **{**settings, "folder": foreign})
    assert [file.name for file in foreign.iterdir()] == ["thesis.tex"]
    (tmp_path / "run" / "columns" / "2.npz").write_bytes(b"PK\x03\x04")
    with pytest.raises(FileFormatError, match=r"2\.npz is truncated or damaged"):
        TrainingRun.load(tmp_path / "run")


def test_no_bit_of_a_folder_can_flip_unnoticed(tmp_path):
    x, y = data()
    train(network(), (x, y), folder=tmp_path / "run", keep="both", noise_std=0.01, **SETTINGS)
    place = RunFolder(tmp_path / "run")
    place.write_state(network(), {"step": 3}, {"a": np.arange(4)})

    def read_all():
        run = TrainingRun.load(place.path)
        run.final_weights()
        place.read_state()
        for k in range(run.marks.size):
            run.weights(k)

    read_all()
    files = [file for file in place.path.rglob("*") if file.is_file()]
    assert {"run.json", "final.pt", "state.pt", "summary.npz", "0.npz", "00000.pt"} <= {file.name for file in files}
    assert {folder.stat().st_mode & 0o777 for folder in (place.path, *place.path.glob("*/"))} == {0o700}
    rng = np.random.default_rng(0)
    for file in files:
        assert file.stat().st_mode & 0o777 == 0o600
        whole = file.read_bytes()
        places = {0, len(whole) - 1, len(whole) - 72, len(whole) - 73, *rng.integers(0, len(whole), 12).tolist()}
        for at in places:
            torn = bytearray(whole)
            torn[at] ^= 1 << int(rng.integers(8))
            if bytes(torn).upper() == whole.upper():
                continue  # 1e-05 and 1E-05
            file.write_bytes(torn)
            with pytest.raises(FileFormatError, match=re.escape(file.name)):
                read_all()
        file.write_bytes(whole)
    read_all()


def test_a_folder_without_digests_loads_with_a_warning(tmp_path):
    x, y = data()
    run = train(network(), (x, y), folder=tmp_path / "run", noise_std=0.01, **SETTINGS)
    for file in (tmp_path / "run").rglob("*.*"):
        if file.suffix in (".npz", ".pt"):
            assert zipfile.is_zipfile(file)
            file.write_bytes(file.read_bytes()[:-73] + b"\0\0")
        elif file.suffix == ".json":
            values = json.loads(file.read_text())
            del values["digest"]
            file.write_text(json.dumps({**values, "format": 1}))
    with pytest.warns(UserWarning, match="carries no digest"):
        loaded = TrainingRun.load(tmp_path / "run")
    np.testing.assert_array_equal(loaded.privacy_losses(), run.privacy_losses())


def test_pytorch_and_numpy_read_the_files_themselves(tmp_path):
    x, y = data()
    run = train(network(), (x, y), folder=tmp_path / "run", noise_std=0.01, **SETTINGS)
    final = torch.load(tmp_path / "run" / "final.pt", weights_only=True)
    assert all(torch.equal(final[name], value) for name, value in run.final_weights().items())
    with np.load(tmp_path / "run" / "columns" / "0.npz") as archive:
        assert "grad_norms" in archive.files


# --- refusals -----------------------------------------------------------------------------------------


def test_a_loss_that_is_not_finite_stops_with_its_step_and_batch():
    x, y = data()
    x[17] = math.nan
    with pytest.raises(NonFiniteLossError, match=r"at step 0 .*: 17 ") as caught:
        train(network(), (x, y), step_size=0.1, batch_size=60, n_steps=5, progress=False)
    assert caught.value.records == (17,)
    assert len(caught.value.batch) == 60
    x, y = data()
    model = nn.Linear(6, 1, bias=False).double()
    with pytest.raises(NonFiniteLossError) as caught:
        train(
            model, (x, y), loss=lambda o, t: (o[:, 0] - t).square(), step_size=50.0, batch_size=60, n_steps=500,
            progress=False,
        )  # fmt: skip
    assert caught.value.step > 10


def test_batch_normalisation_is_refused_before_anything_is_written(tmp_path):
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 3)).double()
    with pytest.raises(UnsupportedLayerError, match="1: batch normalisation in training mode"):
        train(model, data(), folder=tmp_path / "run", **SETTINGS)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"step_size": math.nan}, "step_size"),
        ({"batch_size": 61}, "batch_size must be <= 60"),
        ({"n_steps": None}, "n_steps or epochs"),
        ({"epochs": 2}, "n_steps or epochs"),
        ({"noise_std": 0.1, "temperature": 0.1}, "not both"),
        ({"noise_std": -1.0}, "noise_std must be >= 0"),
        ({"clip": 0.0}, "clip must be > 0"),
        ({"collect": "all"}, "collect must be one of 'batch', 'checkpoint', 'none'"),
        ({"sampling": "cyclic"}, "sampling must be one of"),
        ({"keep": "weights"}, "needs a folder"),
        (
            {"loss": lambda output, target: F.cross_entropy(output, target)},
            r"one value per record, shape \(\d+,\), got",
        ),
    ],
)
def test_bad_settings_are_named(change, message):
    with pytest.raises((ValueError, TypeError), match=message):
        train(network(), data(), **{**SETTINGS, **change})


def test_noise_is_assumed_only_where_there_is_none():
    run = train(network(), data(), **SETTINGS)
    with pytest.raises(ValueError, match="assumed_noise_std is needed"):
        run.privacy_losses()
    noisy = train(network(), data(), noise_std=0.1, **SETTINGS)
    with pytest.raises(ValueError, match=r"this one had noise_std = 0\.1"):
        noisy.privacy_losses(assumed_noise_std=0.1)


# --- implicit noise -------------------------------------------------------------------------------------


def test_run_to_run_noise_is_zero_for_the_same_run_and_the_batches_noise_otherwise():
    x, y = data()
    settings = {"n_steps": 30, "step_size": 0.1, "batch_size": 6, "n_runs": 3}
    same = run_to_run_noise(network(), (x, y), vary="nothing", **settings)
    assert same.identical
    assert float(same.noise_std) == 0.0
    assert math.isnan(same.growth)
    model = network()
    before = weights_of(model).clone()
    differ = run_to_run_noise(model, (x, y), vary="batches", **settings)
    assert torch.equal(weights_of(model), before)
    assert differ.noise_std.status == differ.status == "estimate"
    # One step's spread over random batches is the implicit noise where steps hardly change the gradients.
    steps = []
    for seed in range(200):
        one = network()
        train(one, (x, y), step_size=0.1, batch_size=6, n_steps=1, collect="none", seed=1000 + seed, progress=False)
        steps.append(weights_of(one).numpy())
    truth = math.sqrt(np.stack(steps).var(axis=0, ddof=1).mean())
    assert float(differ.noise_std) == pytest.approx(truth, rel=0.5)
    with pytest.raises(ValueError, match="without noise"):
        run_to_run_noise(network(), (x, y), noise_std=0.1, **settings)
