"""Unlearning runs: every method against steps written out, when they stop, and what they refuse."""

import itertools
import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch", reason="the PyTorch backend needs expunge[torch]", exc_type=ImportError)

from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402, N812
from torch.utils.data import Dataset, Subset, TensorDataset  # noqa: E402

from expunge.evaluation import Band, reference_band  # noqa: E402
from expunge.forget_sets import ForgetSet  # noqa: E402
from expunge.torch import (  # noqa: E402
    METHODS,
    NonFiniteLossError,
    train,
    unlearn,
    unlearn_adaptively,
)
from small_training import data, network, weights_of  # noqa: E402

SETTING = {"step_size": 0.5, "batch_size": 12, "progress": False}
FORGET = [3, 17, 4, 40]


pytestmark = pytest.mark.usefixtures("one_torch_thread")


def state_of(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def mean_loss(model, x, y):
    with torch.no_grad():
        return float(F.cross_entropy(model(x), y))


def arguments(method, model):
    """What the methods need beside the common settings."""
    special = {"retrain": {"initial_state": state_of(model)}, "noisy_fine_tune": {"noise_std": 0.01}}
    return {"method": method, **SETTING, **special.get(method, {})}


# --- methods ---------------------------------------------------------------------------------------------------------


def gradient(model, x, y, rows):
    grads = torch.autograd.grad(F.cross_entropy(model(x[rows]), y[rows], reduction="sum"), list(model.parameters()))
    return torch.cat([g.flatten() for g in grads])


@pytest.mark.parametrize("method", ["fine_tune", "gradient_ascent", "neg_grad_plus"])
def test_full_batch_steps_are_the_formulas(method):
    x, y = data()
    model, slow = network(), network()
    retained = np.setdiff1d(np.arange(60), FORGET)
    setting = {**SETTING, "batch_size": 60, "alpha": 0.01, "ascent_weight": 0.3}
    run = unlearn(model, (x, y), FORGET, method=method, n_steps=5, **setting)
    for _ in range(5):
        down, up = gradient(slow, x, y, retained) / 56, gradient(slow, x, y, FORGET) / 4
        total = {"fine_tune": down, "gradient_ascent": -up, "neg_grad_plus": down - 0.3 * up}[method]
        theta = weights_of(slow)
        torch.nn.utils.vector_to_parameters(theta - 0.5 * (total + 0.01 * theta), slow.parameters())
    torch.testing.assert_close(weights_of(model), weights_of(slow), rtol=1e-11, atol=1e-12)
    assert (run.n_steps, run.method, run.status, run.reached) == (5, method, "estimate", None)


def test_noisy_steps_are_plain_steps_and_gaussian_noise():
    x, y = data()
    model, slow = network(), network()
    start = weights_of(model)
    retained = np.setdiff1d(np.arange(60), FORGET)
    setting = {**SETTING, "batch_size": 60, "noise_std": 0.02}
    unlearn(model, (x, y), FORGET, method="noisy_fine_tune", n_steps=1, **setting)
    noise = weights_of(model) - (start - 0.5 * gradient(slow, x, y, retained) / 56)
    # 83 normals: the mean square of their size is chi-square.
    assert 0.7 < float(noise.std()) / 0.02 < 1.3
    assert abs(float(noise.mean())) < 4 * 0.02 / math.sqrt(noise.numel())


def test_noise_is_not_that_of_training_with_the_same_seed():
    x, y = data()
    retained = np.setdiff1d(np.arange(60), FORGET)
    moves = []
    for how in ("train", "unlearn"):
        model = network()
        start, step = weights_of(model), gradient(model, x, y, retained) / 56
        setting = {"step_size": 0.5, "batch_size": 56, "noise_std": 0.02, "n_steps": 1, "seed": 3, "progress": False}
        if how == "train":
            train(model, (x[retained], y[retained]), collect="none", sampling="shuffle", **setting)
        else:
            unlearn(model, (x, y), FORGET, method="noisy_fine_tune", **setting)
        moves.append(weights_of(model) - start + 0.5 * step)
    assert abs(float(torch.corrcoef(torch.stack(moves))[0, 1])) < 0.5


@pytest.mark.parametrize("sampling", ["poisson", "shuffle"])
def test_retraining_is_training_on_the_retained_records(sampling):
    x, y = data()
    setting = {**SETTING, "n_steps": 30, "noise_std": 0.01, "sampling": sampling, "seed": 5}
    model, plain = network(dropout=0.2), network(dropout=0.2)
    initial = state_of(model)
    train(model, (x, y), **setting)
    run = unlearn(model, (x, y), FORGET, method="retrain", initial_state=initial, **setting)
    kept = Subset(TensorDataset(x, y), np.setdiff1d(np.arange(60), FORGET).tolist())
    train(plain, kept, collect="none", **setting)
    assert torch.equal(weights_of(model), weights_of(plain))
    assert run.status == "exact by construction"


@pytest.mark.parametrize("method", METHODS)
def test_runs_are_reproducible_and_follow_the_seed(method):
    x, y = data()
    ends = []
    for seed, every in ((1, 10), (1, 3), (2, 10)):
        model = network(dropout=0.3)
        setting = {**arguments(method, model), "n_steps": 12, "seed": seed, "evaluate_every": every}

        def metric(model):
            model.eval()
            torch.rand(3)  # what a metric draws changes no step
            return mean_loss(model, x[FORGET], y[FORGET])

        unlearn(model, (x, y), FORGET, metric=metric, **setting)
        assert model.training
        ends.append(weights_of(model))
    assert torch.equal(ends[0], ends[1])
    assert not torch.equal(ends[0], ends[2])


def test_methods_move_the_losses_as_they_should():
    x, y = data()
    model = network()
    train(model, (x, y), n_steps=300, collect="none", **SETTING)
    trained, before = state_of(model), mean_loss(model, x[FORGET], y[FORGET])
    after = {}
    for method in ("fine_tune", "gradient_ascent", "neg_grad_plus"):
        model.load_state_dict(trained)
        unlearn(model, (x, y), FORGET, method=method, n_steps=20, ascent_weight=0.5, **SETTING)
        after[method] = mean_loss(model, x[FORGET], y[FORGET])
    assert after["gradient_ascent"] > after["neg_grad_plus"] > before


class Pairs(Dataset):
    def __init__(self, x, y):
        self.x, self.y = x, y

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        return self.x[i], self.y[i]


def test_any_dataset_and_a_loss_of_ones_own():
    x, y = data()
    target = F.one_hot(y, 3).double()

    def squared(output, target):
        return (output - target).square().sum(dim=1)

    ends = []
    for dataset in ((x, target), TensorDataset(x, target), Pairs(x, target)):
        model = network()
        unlearn(model, dataset, FORGET, method="neg_grad_plus", n_steps=6, loss=squared, clip=1.0, **SETTING)
        ends.append(weights_of(model))
    assert torch.equal(ends[0], ends[1])
    torch.testing.assert_close(ends[0], ends[2], rtol=1e-13, atol=0)


# --- stopping --------------------------------------------------------------------------------------------------------


def scripted(values):
    """A metric that returns one value after another."""
    pending = list(values)
    return lambda model: pending.pop(0)


def test_stops_when_the_band_is_reached():
    x, y = data()
    run = unlearn(
        network(), (x, y), FORGET, method="fine_tune", n_steps=100, evaluate_every=7,
        band=reference_band([1.0, 2.0], method="range"),
        metric=scripted([9.0, 8.0, 1.5, 1.4]), record={"other": lambda model: 4.0}, predicted_steps=20.0, **SETTING,
    )  # fmt: skip
    assert (run.n_steps, run.reached, run.time.step, run.time.previous) == (14, True, 14, 7)
    assert run.curve.steps.tolist() == [0, 7, 14]
    assert run.curve.values["metric"].tolist() == [9.0, 8.0, 1.5]
    assert run.curve.values["other"].tolist() == [4.0, 4.0, 4.0]
    assert "14 steps" in run.summary()
    assert "20 predicted" in run.summary()


def test_patience_asks_for_several_evaluations_in_a_row():
    x, y = data()
    run = unlearn(
        network(), (x, y), FORGET, method="fine_tune", n_steps=100, evaluate_every=5, patience=2,
        band=Band(1.0, 2.0, 1.5, 1, "by hand"), metric=scripted([9.0, 1.5, 8.0, 1.5, 1.4]), **SETTING,
    )  # fmt: skip
    assert (run.n_steps, run.time.step, run.time.first_entry) == (20, 15, 5)


def test_never_reaching_the_band_is_said_in_plain_words():
    x, y = data()
    band = Band(1.0, 2.0, 1.5, 1, "by hand")
    setting = {"method": "fine_tune", "n_steps": 13, "evaluate_every": 5, "band": band, **SETTING}
    run = unlearn(network(), (x, y), FORGET, metric=scripted([9.0, 8.0, 7.0, 6.0]), **setting)
    assert run.curve.steps.tolist() == [0, 5, 10, 13]
    assert run.reached is False
    assert "never reached" in run.summary()
    left = unlearn(network(), (x, y), FORGET, metric=scripted([9.0, 1.5, 7.0, 6.0]), patience=2, **setting)
    assert "does not stay" in left.summary()


def test_going_on_after_the_band():
    x, y = data()
    run = unlearn(
        network(), (x, y), FORGET, method="fine_tune", n_steps=12, evaluate_every=4, stop=False,
        band=Band(1.0, 2.0, 1.5, 1, "by hand"), metric=scripted([9.0, 1.5, 1.5, 1.5]), **SETTING,
    )  # fmt: skip
    assert (run.n_steps, run.time.step, run.reached) == (12, 4, True)


def test_a_model_inside_the_band_takes_no_step():
    x, y = data()
    model = network()
    before = weights_of(model)
    run = unlearn(
        model, (x, y), FORGET, method="fine_tune", epochs=2, metric=lambda m: 1.5,
        band=Band(1.0, 2.0, 1.5, 1, "by hand"), **SETTING,
    )  # fmt: skip
    assert run.n_steps == 0
    assert "nothing to forget" in run.summary()
    assert torch.equal(weights_of(model), before)


def test_epochs_are_passes_over_what_the_method_reads():
    x, y = data()
    for method, steps in (("fine_tune", 2 * 5), ("neg_grad_plus", 2 * 5), ("gradient_ascent", 2)):
        assert unlearn(network(), (x, y), FORGET, epochs=2, **arguments(method, network())).n_steps == steps


def test_a_run_survives_its_file(tmp_path):
    x, y = data()
    run = unlearn(
        network(), (x, y), FORGET, n_steps=4, metric=lambda m: 1.5, band=Band(3.0, 4.0, 3.5, 1, "by hand"),
        predicted_steps=math.inf, **arguments("noisy_fine_tune", network()),
    )  # fmt: skip
    run.save(tmp_path / "run.json")
    found = json.loads((tmp_path / "run.json").read_text())
    assert found["status"] == "estimate"
    assert found["predicted_steps"] == "inf"
    assert found["settings"]["noise_std"] == 0.01
    assert not found["time"]["reached"]
    assert "never reached" in found["summary"]
    with pytest.raises(FileExistsError):
        run.save(tmp_path / "run.json")


# --- refusals --------------------------------------------------------------------------------------------------------


def test_losses_that_are_not_finite_stop_with_step_and_batch():
    x, y = data()
    spoilt = x.clone()
    spoilt[23] = math.nan
    with pytest.raises(NonFiniteLossError) as caught:
        unlearn(network(), (spoilt, y), FORGET, method="fine_tune", n_steps=10, **SETTING)
    assert caught.value.records == (23,)
    assert 23 in caught.value.batch
    assert caught.value.step < 5
    with pytest.raises(NonFiniteLossError):  # ascent that goes on for long
        unlearn(
            nn.Linear(6, 3).double(), (x, y), FORGET, method="gradient_ascent", n_steps=3000,
            loss=lambda output, target: output.square().sum(dim=1), **SETTING,
        )  # fmt: skip


@pytest.mark.parametrize(
    ("forget", "words"),
    [([], "at least one"), (range(60), "retain"), ([60], "within"), ([-1], "within"), ([1, 1], "repeat")],
)
def test_bad_forget_sets_are_refused(forget, words):
    x, y = data()
    model = network()
    before = weights_of(model)
    with pytest.raises(ValueError, match=words):
        unlearn(model, (x, y), np.array(forget, dtype=int), method="fine_tune", n_steps=2, **SETTING)
    assert torch.equal(weights_of(model), before)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"method": "forget"}, ValueError, "method"),
        ({"method": "noisy_fine_tune"}, ValueError, "noise_std or temperature"),
        ({"method": "fine_tune", "noise_std": 0.1}, ValueError, "noise_std"),
        ({"method": "retrain"}, ValueError, "initial_state"),
        ({"initial_state": {}}, ValueError, "initial_state"),
        ({"n_steps": None}, ValueError, "n_steps or epochs"),
        ({"epochs": 2}, ValueError, "n_steps or epochs"),
        ({"n_steps": 0}, ValueError, "n_steps"),
        ({"step_size": math.nan}, ValueError, "step_size"),
        ({"ascent_weight": 0.0}, ValueError, "ascent_weight"),
        ({"evaluate_every": 0}, ValueError, "evaluate_every"),
        ({"patience": 0}, ValueError, "patience"),
        ({"band": (0.0, 1.0), "metric": lambda m: 1.0}, TypeError, "band"),
        ({"band": Band(0.0, 1.0, 0.5, 1, "")}, ValueError, "metric"),
        ({"metric": lambda m: math.nan}, ValueError, "metric must be finite, got nan after step 0"),
        ({"record": {"metric": lambda m: 1.0}}, ValueError, "record"),
        ({"predicted_steps": math.nan}, ValueError, "predicted_steps"),
        ({"loss": "cross-entropy"}, TypeError, "loss"),
        ({"loss": lambda output, target: output.mean()}, ValueError, "one value per record"),
        ({"sampling": "sorted"}, ValueError, "sampling"),
    ],
)
def test_bad_arguments_are_named(change, error, words):
    x, y = data()
    with pytest.raises(error, match=words):
        unlearn(network(), (x, y), FORGET, **{"method": "fine_tune", "n_steps": 2, **SETTING, **change})


def test_a_forget_set_of_another_dataset_is_refused():
    with pytest.raises(ValueError, match="61 records, but the dataset holds 60"):
        unlearn(network(), data(), ForgetSet(FORGET, n_records=61), method="fine_tune", n_steps=1, **SETTING)
    with pytest.raises(TypeError, match="model"):
        unlearn("model", data(), FORGET, method="fine_tune", n_steps=1, **SETTING)


# --- adaptive --------------------------------------------------------------------------------------------------------

NOISY = {**SETTING, "noise_std": 0.01}


def test_each_record_is_done_when_its_bin_is():
    x, y = data()
    seen = []

    def metric(model, rows):
        seen.append(rows.tolist())
        return 1.5 if len(seen) < 3 else 9.0

    run = unlearn_adaptively(
        network(), (x, y), FORGET, [2.5, 7.0, 2.5, 12.0], n_bins=4, metric=metric,
        band=Band(1.0, 2.0, 1.5, 1, "by hand"), **NOISY,
    )  # fmt: skip
    # In ascending order the records are 3, 4, 17, 40.
    assert seen == [[3, 17], [4], [40]]
    assert run.finished_step.tolist() == [3.0, 7.0, 3.0, 12.0]
    assert [one.finished_step for one in run.bins] == [3, 7, 12]
    assert [one.inside for one in run.bins] == [True, True, False]
    assert (run.n_steps, run.finished, run.status) == (12, True, "estimate")
    assert "the prediction fell short: 1 bins, 1 records" in run.summary()
    assert "one noise level" in run.summary()


def test_adaptive_steps_are_those_of_noisy_fine_tuning():
    x, y = data()
    adaptive, plain = network(), network()
    unlearn_adaptively(adaptive, (x, y), FORGET, [4, 4, 9, 9], **NOISY)
    unlearn(plain, (x, y), FORGET, method="noisy_fine_tune", n_steps=9, **NOISY)
    assert torch.equal(weights_of(adaptive), weights_of(plain))


def test_bins_predicted_to_need_more_steps_are_not_finished(tmp_path):
    x, y = data()
    run = unlearn_adaptively(
        network(), (x, y), FORGET, [2, math.inf, 30, 5], n_bins=4, max_steps=10, metric=lambda m, rows: 0.0, **NOISY
    )
    assert run.finished_step.tolist() == [2.0, math.inf, math.inf, 5.0]
    assert (run.n_steps, run.finished) == (10, False)
    assert "not finished: 2 bins, 2 records" in run.summary()
    run.save(tmp_path / "adaptive.json")
    found = json.loads((tmp_path / "adaptive.json").read_text())
    assert [one["predicted_steps"] for one in found["bins"]] == [2.0, 5.0, 30.0, "inf"]
    assert found["status"] == "estimate"


@given(st.lists(st.sampled_from([0.0, 1.0, 2.0, 5.0, 9.0]), min_size=1, max_size=30), st.integers(1, 8))
def test_bins_are_ordered_and_keep_equal_predictions_together(predicted, n_bins):
    from expunge.torch.unlearning.adaptive import _bins

    values = np.array(predicted)
    bins = _bins(values, n_bins)
    assert sorted(np.concatenate(bins).tolist()) == list(range(values.size))
    assert len(bins) <= n_bins
    for before, after in itertools.pairwise(bins):
        assert values[before].max() < values[after].min()


def test_bad_predictions_are_refused():
    x, y = data()
    for predicted, words in (
        ([1.0, 2.0], "one per forgotten record"),
        ([1.0, 2.0, math.nan, 1.0], "predicted_steps"),
        ([1.0, 2.0, -1.0, 1.0], "predicted_steps"),
        ([1.0, 2.0, math.inf, 1.0], "max_steps"),
    ):
        with pytest.raises(ValueError, match=words):
            unlearn_adaptively(network(), (x, y), FORGET, predicted, **NOISY)
    with pytest.raises(ValueError, match="noise_std"):
        unlearn_adaptively(network(), (x, y), FORGET, [1.0] * 4, **SETTING)
    with pytest.raises(ValueError, match="band"):
        unlearn_adaptively(network(), (x, y), FORGET, [1.0] * 4, band=Band(0, 1, 0.5, 1, ""), **NOISY)
