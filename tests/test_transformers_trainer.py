"""Norms that a Trainer of Transformers collects: those of what each record adds to the gradient of a step."""

import copy
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("accelerate")

from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402, N812
from transformers import (  # noqa: E402
    PreTrainedConfig,
    PreTrainedModel,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)

from expunge.integrations.transformers import GradNormsMixin, GradNormsTrainer  # noqa: E402
from expunge.torch import TrainingRun, UnsupportedLayerError  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")  # of other libraries
WORDS = 11


class LanguageModel(PreTrainedModel):
    """A causal language model whose loss is Transformers' own, divided by ``num_items_in_batch``."""

    config_class = PreTrainedConfig

    def __init__(self, config):
        super().__init__(config)
        self.loss_type = "ForCausalLM"
        self.table, self.mix, self.head = nn.Embedding(WORDS, 6), nn.Linear(6, 6), nn.Linear(6, WORDS)
        self.post_init()

    def scores(self, input_ids):
        h = self.table(input_ids)
        return self.head(torch.tanh(self.mix(h)) + h.cumsum(1))

    def forward(self, input_ids, labels=None, **kwargs):
        logits = self.scores(input_ids)
        if labels is None:
            return {"logits": logits}
        return {"loss": self.loss_function(logits, labels, WORDS, **kwargs), "logits": logits}


class PlainLanguageModel(LanguageModel):
    """The same without ``num_items_in_batch``: a mean over the tokens of a batch, which the Trainer divides again."""

    def forward(self, input_ids, labels=None):
        return super().forward(input_ids, labels)


class Regression(PreTrainedModel):
    """A mean over the rows of a batch, whatever ``num_items_in_batch`` says."""

    config_class = PreTrainedConfig

    def __init__(self, config):
        super().__init__(config)
        self.head = nn.Linear(3, 1)
        self.post_init()

    def forward(self, x, labels=None, **kwargs):
        return {"loss": F.mse_loss(self.head(x)[:, 0], labels)}


class Recorder(TrainerCallback):
    """Weights before, and gradients of, every step."""

    def __init__(self):
        self.models, self.grads = [], []

    def on_step_begin(self, args, state, control, model=None, **kwargs):
        self.models.append(copy.deepcopy(model).eval())

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        self.grads.append([p.grad.clone() for p in model.parameters()])


class Recording(GradNormsTrainer):
    """Remembers which rows its batches held."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.recorder, self.batches = Recorder(), {}
        self.add_callback(self.recorder)

    def training_step(self, model, inputs, *args, **kwargs):
        self.batches.setdefault(self.state.global_step, []).append(
            torch.as_tensor(inputs.get("record_id", -1)).tolist()
        )
        return super().training_step(model, inputs, *args, **kwargs)


def texts(n, length=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    data = []
    for i in range(n):
        ids = torch.randint(0, WORDS, (length,), generator=generator)
        labels = torch.where(torch.rand(length, generator=generator) < 0.4, -100, ids)
        labels[-1] = ids[-1]
        data.append({"input_ids": ids, "labels": labels, "record_id": i})
    return data


def settings(folder, **changed):
    given = {
        "per_device_train_batch_size": 3, "max_steps": 4, "use_cpu": True, "save_strategy": "no", "report_to": [],
        "disable_tqdm": True, "logging_strategy": "no", "max_grad_norm": 0.0, "learning_rate": 0.5, "optim": "sgd",
        "lr_scheduler_type": "constant", "seed": 1,
    }  # fmt: skip
    return TrainingArguments(str(folder), **{**given, **changed})


def trained(folder, model, data, trainer=Recording, given=(), **changed):
    set_seed(3)
    made = trainer(model(PreTrainedConfig()).double(), settings(folder, **changed), train_dataset=data, **dict(given))
    made.train()
    return made


def token_losses(model, row):
    """The losses of a record's tokens that count, from a batch of its own."""
    scores = model.scores(row["input_ids"][None])[0, :-1].float()
    kept = row["labels"][1:] != -100
    return F.cross_entropy(scores[kept], row["labels"][1:][kept], reduction="none")


def counted(rows):
    return sum(int((row["labels"][1:] != -100).sum()) for row in rows)


def by_step(model, batch, batches, data):
    return [token_losses(model, data[i]).sum() / counted([data[j] for b in batches for j in b]) for i in batch]


def by_batch(model, batch, batches, data):
    return [token_losses(model, data[i]).sum() / counted([data[j] for j in batch]) / len(batches) for i in batch]


def smoothed(model, batch, batches, data):
    def loss(row):
        kept = row["labels"][1:] != -100
        scores = model.scores(row["input_ids"][None])[0, :-1].float()[kept]
        log_p = -scores.log_softmax(-1)
        own = log_p.gather(1, row["labels"][1:][kept][:, None]).sum()
        return 0.9 * own + 0.1 * log_p.sum() / WORDS

    # The Trainer counts unshifted labels where the model's loss does not shift them by itself.
    return [loss(data[i]) / counted([data[j] for b in batches for j in b]) for i in batch]


def weighted(model, batch, batches, data):
    total = counted([data[j] for b in batches for j in b])
    return [token_losses(model, data[i]).square().sum() / total for i in batch]


def squares_of_losses(outputs, labels, num_items_in_batch=None):
    losses = F.cross_entropy(
        outputs["logits"][:, :-1].float().transpose(1, 2), labels[:, 1:], ignore_index=-100, reduction="none"
    )
    return losses.square().sum() / num_items_in_batch


def squared_errors(model, batch, batches, data):
    return [(model.head(data[i]["x"][None])[0, 0] - data[i]["labels"]).square() / len(batch) for i in batch]


def held_to_autograd(made, run, data, truth, *, rtol=1e-5, every=1, processes=1):
    """Every column is the records' last visit; shares add up to the gradient of the step."""
    expected = np.full(len(data), np.nan)
    size = run.settings["batch_size"]
    for step, model in enumerate(made.recorder.models):
        parameters, total = list(model.parameters()), None
        shares = {}
        for batch in made.batches[step]:
            for i, loss in zip(batch, truth(model, batch, made.batches[step], data), strict=True):
                grads = torch.autograd.grad(loss, parameters)
                total = grads if total is None else [a + b for a, b in zip(total, grads, strict=True)]
                assert i not in shares
                shares[i] = sum(float(g.double().square().sum()) for g in grads) ** 0.5
        for ours, theirs in zip(total, made.recorder.grads[step], strict=True):
            torch.testing.assert_close(ours, theirs, rtol=rtol, atol=rtol)
        if step % every == 0:
            for i, share in shares.items():
                expected[i] = share * size
        column = int(np.searchsorted(run.marks, step + 1))
        if run.marks[column] == step + 1:
            seen = ~np.isnan(expected)
            np.testing.assert_allclose(run.grad_norms[seen, column], expected[seen], rtol=rtol)
    np.testing.assert_array_equal(run.never_visited, np.flatnonzero(np.isnan(expected)))


VARIANTS = {
    "the model divides by the tokens of a step": (LanguageModel, by_step, {}, {}),
    "the Trainer divides the means of batches": (PlainLanguageModel, by_batch, {}, {}),
    "label smoothing": (LanguageModel, smoothed, {"label_smoothing_factor": 0.1}, {}),
    "a loss function": (LanguageModel, weighted, {}, {"compute_loss_func": squares_of_losses}),
}


@pytest.mark.parametrize("accumulation", [1, 3])
@pytest.mark.parametrize("name", VARIANTS)
def test_norms_are_what_records_add_to_a_step(name, accumulation, tmp_path):
    model, truth, changed, given = VARIANTS[name]
    if "label" in name:
        model = type("ForCausalLM", (model,), {"_get_name": lambda self: "GPT2LMHeadModel"})
    data = texts(11)
    made = trained(tmp_path, model, data, given=given, gradient_accumulation_steps=accumulation, **changed)
    run = made.training_run()
    assert isinstance(run, TrainingRun)
    assert run.status == "estimate"
    assert (run.n_records, run.n_steps, run.settings["batch_size"]) == (11, 4, 3 * accumulation)
    held_to_autograd(made, run, data, truth)
    assert run.never_visited.size == 0 or accumulation == 1


def test_a_mean_that_ignores_the_number_of_items_is_not_mistaken(tmp_path):
    generator = torch.Generator().manual_seed(0)
    data = [
        {"x": torch.randn(3, generator=generator).double(), "labels": float(i % 3), "record_id": i} for i in range(6)
    ]
    made = trained(tmp_path, Regression, data, gradient_accumulation_steps=2, given={"data_collator": in_float64})
    held_to_autograd(made, made.training_run(), data, squared_errors, rtol=1e-9)


def in_float64(rows):
    return {
        "x": torch.stack([row["x"] for row in rows]),
        "labels": torch.tensor([row["labels"] for row in rows], dtype=torch.float64),
        "record_id": torch.tensor([row["record_id"] for row in rows]),
    }


def test_the_run_is_that_of_a_trainer_without_norms(tmp_path):
    class Plain(Trainer):
        def _prepare_inputs(self, inputs):
            return super()._prepare_inputs({k: v for k, v in inputs.items() if k != "record_id"})

    data = texts(7)
    ours = trained(tmp_path, LanguageModel, data, gradient_accumulation_steps=2)
    plain = trained(tmp_path, LanguageModel, data, trainer=Plain, gradient_accumulation_steps=2)
    for p, q in zip(ours.model.parameters(), plain.model.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-12)


def test_steps_between_measured_ones_carry_norms_on(tmp_path):
    data = texts(12)
    made = trained(tmp_path, LanguageModel, data, given={"every": 3, "n_windows": 2}, max_steps=9)
    run = made.training_run()
    assert run.marks.tolist() == [4, 9]
    assert set(np.unique(run.steps)) <= {-1, 0, 3, 6}
    held_to_autograd(made, run, data, by_step, every=3)
    if run.never_visited.size:
        with pytest.raises(ValueError, match=f"{run.never_visited.size} records have no norm"):
            run.privacy_losses(assumed_noise_std=1.0)


def test_privacy_losses_and_proxies_of_a_run(tmp_path):
    run = trained(tmp_path, LanguageModel, texts(6)).training_run()
    losses = run.privacy_losses(order=2.0, assumed_noise_std=10.0)
    assert losses.shape == (6,)
    assert np.all(np.asarray(losses) > 0)
    np.testing.assert_allclose(run.proxies()["average_grad_norm"], run.grad_norms.mean(1), rtol=1e-6)


def test_autocast_gives_the_norms_of_what_it_computes(tmp_path):
    data = texts(9)
    set_seed(3)
    made = Recording(LanguageModel(PreTrainedConfig()), settings(tmp_path, bf16=True), train_dataset=data)
    made.train()
    held_to_autograd(made, made.training_run(), data, by_step, rtol=0.1)

    def in_bfloat16(model, batch, batches, rows):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return by_step(model, batch, batches, rows)

    held_to_autograd(made, made.training_run(), data, in_bfloat16, rtol=0.02)


def test_a_scaler_of_gradients_is_taken_out_and_its_skipped_steps_are_left_out(tmp_path):
    class Scaled(Recording):
        def create_accelerator_and_postprocess(self):
            super().create_accelerator_and_postprocess()
            self.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)

        def training_step(self, model, inputs, *args, **kwargs):
            loss = super().training_step(model, inputs, *args, **kwargs)
            if self.state.global_step == 2:
                model.head.weight.grad.fill_(np.inf)
            return loss

    data = texts(6)
    made = trained(tmp_path, LanguageModel, data, trainer=Scaled, max_steps=5)
    run = made.training_run()
    assert 2 not in run.steps
    for step in (0, 1):
        model, batch = made.recorder.models[step], made.batches[step][0]
        for i, loss in zip(batch, by_step(model, batch, [batch], data), strict=True):
            grads = torch.autograd.grad(loss, list(model.parameters()))
            norm = sum(float(g.square().sum()) for g in grads) ** 0.5
            np.testing.assert_allclose(run.grad_norms[i, step], 3 * norm, rtol=1e-5)


def test_any_trainer_can_have_it_and_evaluation_goes_on(tmp_path):
    class Own(Trainer):
        def compute_loss(self, model, inputs, *args, **kwargs):
            assert "record_id" not in inputs
            return super().compute_loss(model, inputs, *args, **kwargs)

    class Both(GradNormsMixin, Own):
        pass

    set_seed(3)
    data = texts(6)
    arguments = settings(tmp_path, eval_strategy="steps", eval_steps=2)
    made = Both(LanguageModel(PreTrainedConfig()), arguments, train_dataset=data, eval_dataset=data)
    with pytest.raises(RuntimeError, match="after train"):
        made.training_run()
    made.train()
    assert made.training_run().grad_norms.shape == (6, 4)
    assert np.isfinite(made.evaluate()["eval_loss"])


def test_a_record_twice_in_a_step_has_the_sum_of_both_norms(tmp_path):
    row = texts(1)[0]
    data = [{**row, "record_id": i} for i in (0, 0, 1)]
    run = trained(tmp_path, LanguageModel, data, given={"n_records": 2}, max_steps=1).training_run()
    np.testing.assert_allclose(run.grad_norms[0], 2 * run.grad_norms[1], rtol=1e-6)


# --- refusals -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        (lambda row: row.pop("record_id"), ValueError, "batches have no 'record_id'"),
        (lambda row: row.update(record_id=7), ValueError, r"within \[0, 4\), got 7"),
        (lambda row: row.update(record_id=-1), ValueError, r"within \[0, 4\), got -1"),
        (lambda row: row.update(record_id=0.5), TypeError, "must be integers from 0 to 3"),
        (lambda row: row.update(record_id=[1, 2]), ValueError, r"must have shape \(3,\)"),
    ],
)
def test_wrong_record_ids_are_named(change, error, match, tmp_path):
    data = texts(4)
    for row in data:
        change(row)
    with pytest.raises(error, match=match):
        trained(tmp_path, LanguageModel, data)


def test_batch_normalisation_is_refused_before_anything_is_computed(tmp_path):
    class Mixed(LanguageModel):
        def __init__(self, config):
            super().__init__(config)
            self.norm = nn.BatchNorm1d(5)

        def scores(self, input_ids):
            raise AssertionError("computed")

    with pytest.raises(UnsupportedLayerError, match="batch normalisation in training mode"):
        trained(tmp_path, Mixed, texts(4))


def test_a_loss_in_which_records_interact_is_refused(tmp_path):
    def interacting(outputs, labels, num_items_in_batch=None):
        return outputs["logits"].sum((1, 2)).softmax(0).square().sum()

    with pytest.raises(UnsupportedLayerError, match="not a sum over examples"):
        trained(tmp_path, LanguageModel, texts(4), given={"compute_loss_func": interacting})


def test_norms_that_are_not_finite_stop_the_training(tmp_path):
    def broken(outputs, labels, num_items_in_batch=None):
        return outputs["logits"].sum() * float("inf")

    with pytest.raises(ValueError, match=r"must be finite, got (nan|inf) for record \d in step 0"):
        trained(tmp_path, LanguageModel, texts(4), given={"compute_loss_func": broken})


def test_going_on_from_a_checkpoint_is_refused(tmp_path):
    arguments = {"save_strategy": "steps", "save_steps": 2, "save_only_model": False}
    made = trained(tmp_path, LanguageModel, texts(6), **arguments)
    with pytest.raises(ValueError, match="resume_from_checkpoint"):
        made.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))


@pytest.mark.parametrize("bad", [{"every": 0}, {"n_windows": 0}, {"n_records": 0}, {"record_ids": 3}])
def test_arguments_are_checked(bad, tmp_path):
    with pytest.raises((TypeError, ValueError), match=next(iter(bad))):
        GradNormsTrainer(LanguageModel(PreTrainedConfig()), settings(tmp_path), train_dataset=texts(2), **bad)


# --- replicas -----------------------------------------------------------------------------------------

REPLICA = """
import sys
sys.path.insert(0, {tests!r})
import torch
import test_transformers_trainer as t
data = t.texts(7)  # the last batch is filled up
given = dict(max_steps=4, gradient_accumulation_steps=2, per_device_train_batch_size=1, ddp_backend="gloo")
try:
    t.trained(sys.argv[1], t.LanguageModel, data, **given)
except t.UnsupportedLayerError as error:
    refused = str(error)
made = t.trained(sys.argv[1], t.LanguageModel, data, ddp_find_unused_parameters=False, **given)
run = made.training_run()
models = [{{k: v.detach() for k, v in m.state_dict().items()}} for m in made.recorder.models]
torch.save((run.grad_norms, run.steps, made.batches, models, made.recorder.grads, refused), sys.argv[2])
"""


def replicas(folder):
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    code = REPLICA.format(tests=str(Path(__file__).parent))
    running = []
    for rank in range(2):
        env = {**os.environ, "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1",
               "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}  # fmt: skip
        command = [sys.executable, "-W", "ignore", "-c", code, str(folder / "out"), str(folder / f"{rank}.pt")]
        running.append(subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
    try:
        return [(process.communicate(timeout=300), process.returncode) for process in running]
    finally:
        for process in running:
            process.kill()


def test_replicas_gather_what_records_add_to_the_averaged_gradient(tmp_path):
    for (_, errors), status in replicas(tmp_path):
        assert status == 0, errors
    found = [torch.load(tmp_path / f"{rank}.pt", weights_only=False) for rank in range(2)]
    for a, b in zip(found[0][:2], found[1][:2], strict=True):
        np.testing.assert_array_equal(a, b)
    norms, steps, _, models, grads, refused = found[0]
    assert "ddp_find_unused_parameters=False" in refused
    data, model = texts(7), LanguageModel(PreTrainedConfig()).double()
    for step, weights in enumerate(models):
        model.load_state_dict(weights)
        rows = [i for rank in range(2) for batch in found[rank][2][step] for i in batch]
        tokens = counted([data[i] for i in rows])
        total = [torch.zeros_like(p) for p in model.parameters()]
        sums = dict.fromkeys(rows, 0.0)
        for i in rows:
            own = torch.autograd.grad(token_losses(model, data[i]).sum() / tokens, list(model.parameters()))
            total = [a + b for a, b in zip(total, own, strict=True)]
            sums[i] += sum(float(g.square().sum()) for g in own) ** 0.5
        for ours, theirs in zip(total, grads[step], strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
        for i, share in sums.items():
            assert steps[i, step] == step
            np.testing.assert_allclose(norms[i, step], 4 * share, rtol=1e-5)
