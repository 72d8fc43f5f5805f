"""Norms that a callback of Lightning collects: those of what each record adds to the gradient of a step."""

import copy
import os
import socket
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("lightning")

import lightning  # noqa: E402
from lightning.pytorch.callbacks import Callback  # noqa: E402
from lightning.pytorch.plugins import MixedPrecision  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402, N812
from torch.utils.data import DataLoader, TensorDataset  # noqa: E402

from expunge.integrations.lightning import GradNormsCallback  # noqa: E402
from expunge.torch import TrainingRun, UnsupportedLayerError  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")  # of other libraries


class Model(lightning.LightningModule):
    """A classifier whose training step calls parts of it, or (``whole``) itself."""

    def __init__(self, whole=False, optimizer=torch.optim.SGD):
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.LayerNorm(6), nn.Linear(6, 3)).double()
        self.whole, self.optimizer = whole, optimizer

    def forward(self, x):
        return self.body(x)

    def loss(self, scores, y):
        return F.cross_entropy(scores, y)

    def training_step(self, batch):
        return self.loss(self(batch["x"]) if self.whole else self.body(batch["x"]), batch["y"])

    def validation_step(self, batch):
        self.log("loss", self.training_step(batch))

    def configure_optimizers(self):
        return self.optimizer(self.parameters(), lr=0.5)


class Recorder(Callback):
    """Weights before, batches and gradients of, every step."""

    def __init__(self):
        self.models, self.batches, self.grads = {}, {}, {}

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.models.setdefault(trainer.global_step, copy.deepcopy(pl_module.body))
        self.batches.setdefault(trainer.global_step, []).append(batch["record_id"].tolist())

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        self.grads[trainer.global_step] = [p.grad.clone() for p in pl_module.parameters()]


def rows(n, seed=0):
    generator = torch.Generator().manual_seed(seed)
    xs = torch.randn(n, 4, generator=generator, dtype=torch.float64)
    return [{"x": x, "y": i % 3, "record_id": i} for i, x in enumerate(xs)]


def trained(data, model=None, size=3, given=(), loader=None, **changed):
    torch.manual_seed(1)
    recorder, norms = Recorder(), GradNormsCallback(**dict(given))
    arguments = {"max_steps": 6, "accelerator": "cpu", "barebones": True, "callbacks": [recorder, norms]}
    trainer = lightning.Trainer(**{**arguments, **changed})
    trainer.fit(model or Model(), DataLoader(data, batch_size=size, shuffle=True) if loader is None else loader)
    return recorder, norms


def held_to_autograd(recorder, run, data, *, accumulation=1, rtol=1e-9, every=1, scale=1.0):
    """Every column is the records' last visit; shares add up to the gradient of the step."""
    expected = np.full(len(data), np.nan)
    for step, body in recorder.models.items():
        parameters = list(body.parameters())
        total = [torch.zeros_like(p) for p in parameters]
        for batch in recorder.batches[step]:
            for i in batch:
                loss = F.cross_entropy(body(data[i]["x"][None]), torch.tensor([data[i]["y"]]))
                own = torch.autograd.grad(loss / len(batch) / accumulation, parameters)
                total = [a + b for a, b in zip(total, own, strict=True)]
                norm = sum(float(g.square().sum()) for g in own) ** 0.5
                if step % every == 0:
                    expected[i] = norm * run.settings["batch_size"]
        for ours, theirs in zip(total, recorder.grads[step], strict=True):
            torch.testing.assert_close(ours * scale, theirs, rtol=rtol, atol=rtol)
        column = int(np.searchsorted(run.marks, step + 1))
        if run.marks[column] == step + 1:
            seen = ~np.isnan(expected)
            np.testing.assert_allclose(run.grad_norms[seen, column], expected[seen], rtol=rtol)
    np.testing.assert_array_equal(run.never_visited, np.flatnonzero(np.isnan(expected)))


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("accumulation", [1, 3])
def test_norms_are_what_records_add_to_a_step(accumulation, whole):
    data = rows(10)  # a batch of one, and a step of fewer batches, end every epoch
    recorder, norms = trained(data, Model(whole), accumulate_grad_batches=accumulation)
    run = norms.training_run()
    assert isinstance(run, TrainingRun)
    assert (run.status, run.n_records, run.n_steps) == ("estimate", 10, 6)
    assert run.settings["batch_size"] == 3 * accumulation
    held_to_autograd(recorder, run, data, accumulation=accumulation)
    assert run.privacy_losses(assumed_noise_std=5.0).shape == (10,)


def test_the_run_is_that_of_a_trainer_without_norms():
    data = rows(9)
    models = [Model(), Model()]
    trained(data, models[0], accumulate_grad_batches=2)
    torch.manual_seed(1)
    plain = lightning.Trainer(max_steps=6, accelerator="cpu", barebones=True, accumulate_grad_batches=2)
    plain.fit(models[1], DataLoader(data, batch_size=3, shuffle=True))
    for p, q in zip(models[0].parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-12)


def test_steps_between_measured_ones_carry_norms_on():
    data = rows(9)
    recorder, norms = trained(data, given={"every": 4, "n_windows": 3}, max_steps=12)
    run = norms.training_run()
    assert run.marks.tolist() == [4, 8, 12]
    assert set(np.unique(run.steps)) <= {-1, 0, 4, 8}
    held_to_autograd(recorder, run, data, every=4)


@pytest.mark.parametrize("where", [2, lambda batch: batch[2]])
def test_record_ids_are_anywhere_in_a_batch(where):
    class Tuples(Model):
        def training_step(self, batch):
            return self.loss(self.body(batch[0]), batch[1])

    data = rows(6)
    tensors = [torch.stack([torch.as_tensor(row[name]) for row in data]) for name in ("x", "y", "record_id")]
    norms = GradNormsCallback(record_ids=where)
    trainer = lightning.Trainer(max_steps=2, accelerator="cpu", barebones=True, callbacks=[norms])
    model = Tuples()
    before = copy.deepcopy(model.body)
    trainer.fit(model, DataLoader(TensorDataset(*tensors), batch_size=3))
    first = norms.training_run().grad_norms[:3, 0]
    for row, found in zip(data, first, strict=False):
        loss = F.cross_entropy(before(row["x"][None]), torch.tensor([row["y"]]))
        grads = torch.autograd.grad(loss, list(before.parameters()))
        np.testing.assert_allclose(found, sum(float(g.square().sum()) for g in grads) ** 0.5, rtol=1e-9)


def test_a_scaler_of_gradients_is_taken_out_and_its_skipped_steps_are_left_out():
    class Scaled(MixedPrecision):
        forward_context = staticmethod(nullcontext)  # float64, and a scaler all the same

    class Overflowing(Model):
        def on_after_backward(self):
            if self.global_step == 2:
                self.body[0].weight.grad.fill_(np.inf)

    data = rows(9)
    precision = Scaled("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=2.0**10))
    recorder, norms = trained(data, Overflowing(), plugins=[precision], max_steps=5)
    run = norms.training_run()
    assert 2 not in run.steps
    for step in (0, 1, 3):  # the scale of the last is half of the first's
        body, batch = recorder.models[step], recorder.batches[step][0]
        for i in batch:
            loss = F.cross_entropy(body(data[i]["x"][None]), torch.tensor([data[i]["y"]]))
            grads = torch.autograd.grad(loss, list(body.parameters()))
            norm = sum(float(g.square().sum()) for g in grads) ** 0.5
            np.testing.assert_allclose(run.grad_norms[i, step], norm, rtol=1e-9)


def test_autocast_gives_the_norms_of_what_it_computes():
    data = rows(6)
    for row in data:
        row["x"] = row["x"].float()
    model = Model()
    model.body.float()
    recorder, norms = trained(data, model, precision="bf16-mixed", max_steps=3)
    held_to_autograd(recorder, norms.training_run(), data, rtol=0.1)


def test_validation_between_steps_changes_nothing():
    data = rows(6)
    recorder, norms = Recorder(), GradNormsCallback()
    trainer = lightning.Trainer(
        max_steps=4, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        val_check_interval=1, callbacks=[recorder, norms],
    )  # fmt: skip
    trainer.fit(Model(), DataLoader(data, batch_size=3), DataLoader(data, batch_size=2))
    held_to_autograd(recorder, norms.training_run(), data)


# --- refusals -----------------------------------------------------------------------------------------


class Manual(Model):
    def __init__(self):
        super().__init__()
        self.automatic_optimization = False


class Mixed(Model):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(3)


class Interacting(Model):
    def loss(self, scores, y):
        return scores.sum(1).softmax(0).square().sum()


def lbfgs(parameters, lr):
    return torch.optim.LBFGS(parameters, lr=lr, max_iter=3)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (Manual, "optimizes manually"),
        (Mixed, "batch normalisation in training mode"),
        (Interacting, "not a sum over examples"),
        (lambda: Model(optimizer=lbfgs), "several times"),
    ],
)
def test_what_cannot_be_measured_is_refused(make, match):
    with pytest.raises(UnsupportedLayerError, match=match):
        trained(rows(6), make())
    x = torch.randn(3, 4, dtype=torch.float64)
    Model().body(x).sum().backward()  # no block was left open
    assert not torch.overrides._get_current_function_mode_stack()


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        (lambda row: row.pop("record_id"), ValueError, "batches have no 'record_id'"),
        (lambda row: row.update(record_id=9), ValueError, r"within \[0, 6\), got 9"),
        (lambda row: row.update(record_id=0.5), TypeError, "must be integers from 0 to 5"),
        (lambda row: row.update(record_id=[1, 2]), ValueError, r"must have shape \(3,\)"),
    ],
)
def test_wrong_record_ids_are_named(change, error, match):
    data = rows(6)
    for row in data:
        change(row)
    norms = GradNormsCallback()
    trainer = lightning.Trainer(max_steps=2, accelerator="cpu", barebones=True, callbacks=[norms])
    with pytest.raises(error, match=match):
        trainer.fit(Model(), DataLoader(data, batch_size=3))


def test_loaders_that_do_not_say_their_sizes_need_them():
    class Endless(torch.utils.data.IterableDataset):
        def __iter__(self):
            return iter(rows(6))

    def loader(**given):
        return DataLoader(Endless(), **given)

    with pytest.raises(ValueError, match="n_records must be given"):
        trained(None, loader=loader(batch_size=3))
    batches = torch.utils.data.BatchSampler(torch.utils.data.SequentialSampler(range(6)), 3, False)
    with pytest.raises(ValueError, match="batch_size must be given"):
        trained(None, loader=DataLoader(rows(6), batch_sampler=batches))
    _, norms = trained(None, loader=loader(batch_size=3), given={"n_records": 6, "batch_size": 12}, max_steps=2)
    assert norms.training_run().settings["batch_size"] == 12


def test_going_on_from_a_checkpoint_is_refused(tmp_path):
    trainer = lightning.Trainer(max_steps=2, accelerator="cpu", logger=False, enable_progress_bar=False,
                                default_root_dir=tmp_path, enable_checkpointing=False)  # fmt: skip
    trainer.fit(Model(), DataLoader(rows(6), batch_size=3))
    trainer.save_checkpoint(tmp_path / "two.ckpt")
    again = lightning.Trainer(max_steps=4, accelerator="cpu", barebones=True, callbacks=[GradNormsCallback()])
    with pytest.raises(ValueError, match="ckpt_path"):
        again.fit(Model(), DataLoader(rows(6), batch_size=3), ckpt_path=tmp_path / "two.ckpt")


@pytest.mark.parametrize("bad", [{"every": 0}, {"n_windows": 0}, {"n_records": 0}, {"record_ids": 1.5}])
def test_arguments_are_checked(bad):
    with pytest.raises((TypeError, ValueError), match=next(iter(bad))):
        GradNormsCallback(**bad)
    with pytest.raises(RuntimeError, match="after the trainer's fit"):
        GradNormsCallback().training_run()


# --- replicas -----------------------------------------------------------------------------------------

REPLICA = """
import sys
sys.path.insert(0, {tests!r})
import torch
import test_lightning as t
data = t.rows(7)  # the last batch is filled up
given = dict(size=1, max_steps=4, accumulate_grad_batches=2, devices=2)
try:
    t.trained(data, strategy="ddp_find_unused_parameters_true", **given)
except t.UnsupportedLayerError as error:
    refused = str(error)
recorder, norms = t.trained(data, strategy="ddp", **given)
run = norms.training_run()
models = {{step: body.state_dict() for step, body in recorder.models.items()}}
torch.save((run.grad_norms, run.steps, recorder.batches, models, recorder.grads, refused), sys.argv[1])
"""


def test_replicas_gather_what_records_add_to_the_averaged_gradient(tmp_path):
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    running = []
    for rank in range(2):
        env = {**os.environ, "LOCAL_RANK": str(rank), "NODE_RANK": "0", "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1",
               "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}  # fmt: skip
        code = REPLICA.format(tests=str(Path(__file__).parent))
        command = [sys.executable, "-W", "ignore", "-c", code, str(tmp_path / f"{rank}.pt")]
        running.append(subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
    try:
        for process in running:
            _, errors = process.communicate(timeout=300)
            assert process.returncode == 0, errors
    finally:
        for process in running:
            process.kill()
    found = [torch.load(tmp_path / f"{rank}.pt", weights_only=False) for rank in range(2)]
    for a, b in zip(found[0][:2], found[1][:2], strict=True):
        np.testing.assert_array_equal(a, b)
    norms, steps, _, models, grads, refused = found[0]
    assert "find_unused_parameters" in refused
    data, body = rows(7), Model().body
    for step, weights in models.items():
        body.load_state_dict(weights)
        held = [i for rank in range(2) for batch in found[rank][2][step] for i in batch]
        total = [torch.zeros_like(p) for p in body.parameters()]
        sums = dict.fromkeys(held, 0.0)
        for i in held:
            loss = F.cross_entropy(body(data[i]["x"][None]), torch.tensor([data[i]["y"]])) / 4
            own = torch.autograd.grad(loss, list(body.parameters()))
            total = [a + b for a, b in zip(total, own, strict=True)]
            sums[i] += sum(float(g.square().sum()) for g in own) ** 0.5
        for ours, theirs in zip(total, grads[step], strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)
        for i, share in sums.items():
            assert steps[i, step] == step
            np.testing.assert_allclose(norms[i, step], 4 * share, rtol=1e-9)
