"""Many networks trained at once: each is what training it alone makes, whatever the others do."""

import copy
import re
from threading import Event

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the PyTorch backend needs expunge[torch]", exc_type=ImportError)

from torch import nn  # noqa: E402
from torch.utils.data import Dataset, Subset  # noqa: E402

import oracles  # noqa: E402
from expunge._kernels import backend  # noqa: E402
from expunge.torch import NonFiniteLossError, train, train_many  # noqa: E402
from expunge.torch.ensemble.group import Data, Group, Member  # noqa: E402
from expunge.torch.ensemble.plan import NotUnderstoodError, plan_of  # noqa: E402
from expunge.torch.models import mlp, small_cnn, small_vit  # noqa: E402
from small_training import weights_of  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_torch_thread")

IMAGE = (2, 9, 7)  # channels, height and width that no vector divides
SETTINGS = {"step_size": 0.3, "batch_size": 7, "noise_std": 0.01, "alpha": 0.01, "progress": False}


def images(n=40, shape=IMAGE, classes=3, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, *shape, dtype=torch.float64, generator=generator)
    return x.to(dtype), torch.randint(0, classes, (n,), generator=generator)


def strided(seed=0):
    """Return two strided convolutions with norms, and two linear layers."""
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(2, 6, 3, stride=2, padding=1), nn.GroupNorm(3, 6), nn.ReLU(),
        nn.Conv2d(6, 17, (2, 3), stride=(1, 2), bias=False), nn.GroupNorm(17, 17, affine=False), nn.ReLU(),
        nn.Flatten(), nn.Linear(17 * 4 * 1, 11), nn.LayerNorm(11), nn.ReLU(), nn.Linear(11, 3),
    )  # fmt: skip
    return model.double()


def pooled(seed=0):
    """Return a network that pools windows which overlap and reach beyond the image."""
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.GroupNorm(1, 2), nn.Conv2d(2, 16, 3, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2, 1), nn.Conv2d(16, 33, 1),
        nn.MaxPool2d(2), nn.ReLU(), nn.Flatten(), nn.Identity(), nn.Linear(33 * 3 * 2, 3),
    )  # fmt: skip
    return model.double()


class Written(nn.Module):
    """A network that writes its forward pass with functions."""

    def __init__(self, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.conv, self.out = nn.Conv2d(2, 4, 3), nn.Linear(4 * 7 * 5, 3)
        self.double()

    def forward(self, x):
        return self.out(torch.flatten(torch.relu(self.conv(x)), 1))


def perceptron(seed=0):
    return mlp(input_shape=IMAGE, n_classes=3, hidden=(20, 9), seed=seed).double()


def digits(seed=0):
    return small_cnn(input_shape=IMAGE, n_classes=3, width=4, seed=seed).double()


MAKERS = [strided, pooled, Written, perceptron, digits]


def alone(make, data, seeds, subsets, **settings):
    models = [make(seed) for seed in seeds]
    for model, seed, rows in zip(models, seeds, subsets, strict=True):
        part = data if rows is None else (data[0][rows], data[1][rows])
        train(model, part, collect="none", seed=seed, **settings)
    return models


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("sampling", ["poisson", "shuffle"])
def test_every_member_is_what_training_it_alone_makes(make, sampling):
    data, seeds = images(), [3, 1, 4]
    subsets = [None, np.arange(5, 40), np.arange(0, 40, 2)]
    settings = {**SETTINGS, "sampling": sampling, "epochs": 3}
    models = [make(seed) for seed in seeds]
    run = train_many(models, data, seeds=seeds, subsets=subsets, **settings)
    assert run.one_by_one is None, run.one_by_one
    assert run.n_steps == (18, 15, 9)
    assert run.failures == {}
    expected = alone(make, data, seeds, subsets, **settings)
    for model, other, start in zip(models, expected, map(make, seeds), strict=True):
        moved = (weights_of(other) - weights_of(start)).abs().max()
        assert (weights_of(model) - weights_of(other)).abs().max() < 1e-12 * max(1.0, float(moved))
        assert moved > 0.01


@pytest.mark.parametrize("make", MAKERS)
def test_in_float32_only_rounding_tells_members_from_models_trained_alone(make):
    data, seeds = images(dtype=torch.float32), range(3)
    settings = {**SETTINGS, "n_steps": 10, "step_size": 0.05}
    models = [make(seed).float() for seed in seeds]
    assert train_many(models, data, seeds=seeds, **settings).one_by_one is None
    expected = alone(lambda seed: make(seed).float(), data, seeds, [None] * 3, **settings)
    for model, other in zip(models, expected, strict=True):
        assert (weights_of(model) - weights_of(other)).abs().max() < 2e-5


def test_members_do_not_depend_on_each_other_on_groups_or_on_threads():
    data, seeds = images(), list(range(5))
    reference = [strided(seed) for seed in seeds]
    train_many(reference, data, seeds=seeds, epochs=2, **SETTINGS)
    each = 3 * 8 * sum(p.numel() for p in reference[0].parameters())
    for memory, threads, sizes in [(each, 1, (1,) * 5), (2 * each, 2, (2, 2, 1)), (1 << 30, 2, (5,))]:
        models = [strided(seed) for seed in seeds]
        run = train_many(models, data, seeds=seeds, epochs=2, memory_bytes=memory, threads=threads, **SETTINGS)
        assert run.group_sizes == sizes
        for model, other in zip(models, reference, strict=True):
            assert torch.equal(weights_of(model), weights_of(other))
    with pytest.raises(ValueError, match=f"memory_bytes must be at least {each}"):
        train_many([strided(0)], data, seeds=[0], epochs=1, memory_bytes=each - 1, **SETTINGS)


def test_a_member_that_diverges_is_named_and_spoils_no_other():
    data, seeds = images(), [0, 1, 2]
    settings = {**SETTINGS, "n_steps": 12, "noise_std": 0.0, "alpha": 0.0}
    models = [perceptron(seed) for seed in seeds]
    with torch.no_grad():
        next(models[1].parameters()).mul_(1e200)
    start = copy.deepcopy(models)
    run = train_many(models, data, seeds=seeds, **settings)
    assert run.one_by_one is None
    assert list(run.failures) == [1]
    with pytest.raises(NonFiniteLossError) as caught:
        train(start[1], data, collect="none", seed=1, **settings)
    error, expected = run.failures[1], caught.value
    assert (error.step, error.batch, error.records) == (expected.step, expected.batch, expected.records)
    assert "1 failed: 1" in str(run)
    for k in (0, 2):
        train(start[k], data, collect="none", seed=k, **settings)
        assert (weights_of(models[k]) - weights_of(start[k])).abs().max() < 1e-12


def test_weights_that_the_last_step_left_infinite_are_a_failure():
    models = [perceptron(0), perceptron(1)]
    run = train_many(models, images(), seeds=[0, 1], n_steps=1, **{**SETTINGS, "noise_std": 1e308, "alpha": 0.0})
    assert set(run.failures) == {0, 1}
    assert run.failures[0].records == ()


def test_poisson_batches_without_records_are_steps_of_noise():
    data = images(n=6)
    settings = {**SETTINGS, "batch_size": 1, "n_steps": 15}
    models = [perceptron(seed) for seed in range(2)]
    assert train_many(models, data, seeds=[0, 1], **settings).one_by_one is None
    for model, other in zip(models, alone(perceptron, data, [0, 1], [None] * 2, **settings), strict=True):
        assert (weights_of(model) - weights_of(other)).abs().max() < 1e-12


class Items(Dataset):
    """Records that are not tensors in memory."""

    def __init__(self, data):
        self.data = data

    def __len__(self):
        return len(self.data[1])

    def __getitem__(self, row):
        return self.data[0][row], self.data[1][row]


def shared(seed=0):
    torch.manual_seed(seed)
    layer = nn.Linear(4, 4)
    return nn.Sequential(nn.Flatten(), nn.Linear(126, 4), layer, nn.ReLU(), layer, nn.Linear(4, 3)).double()


def frozen(seed=0):
    model = perceptron(seed)
    model[1].bias.requires_grad_(False)
    return model


def hooked(seed=0):
    model = perceptron(seed)
    model[2].register_forward_hook(lambda module, given, output: output * 0.5)
    return model


class Residual(nn.Module):
    """A network with a shortcut."""

    def __init__(self, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.first, self.second = nn.Linear(126, 3), nn.Linear(3, 3)
        self.double()

    def forward(self, x):
        x = self.first(x.flatten(1))
        return x + self.second(x)


NOT_UNDERSTOOD = {
    "a Tanh": lambda seed: nn.Sequential(nn.Flatten(), nn.Linear(126, 3), nn.Tanh()).double(),
    "a Dropout": lambda seed: nn.Sequential(nn.Flatten(), nn.Linear(126, 3), nn.Dropout(0.5)).double(),
    "no chain": Residual,
    "shares a parameter": shared,
    "is frozen": frozen,
    "has hooks": hooked,
    "dilation": lambda seed: nn.Sequential(
        nn.Conv2d(2, 3, 3, dilation=2), nn.Flatten(), nn.Linear(45, 3)
    ).double(),
    "groups 2": lambda seed: nn.Sequential(nn.Conv2d(2, 2, 3, groups=2), nn.Flatten(), nn.Linear(70, 3)).double(),
}  # fmt: skip


@pytest.mark.parametrize("why", NOT_UNDERSTOOD)
def test_models_that_are_not_understood_train_one_by_one_and_say_why(why):
    def make(seed):
        torch.manual_seed(seed)
        return NOT_UNDERSTOOD[why](seed)

    data, settings = images(), {**SETTINGS, "n_steps": 3}
    subsets = [None, np.arange(20)]
    models = [make(seed) for seed in range(2)]
    run = train_many(models, data, seeds=[0, 1], subsets=subsets, **settings)
    assert run.one_by_one is not None
    assert why in run.one_by_one
    for model, other in zip(models, alone(make, data, [0, 1], subsets, **settings), strict=True):
        assert torch.equal(weights_of(model), weights_of(other))


def test_what_else_is_not_understood_is_named():
    data, settings = images(), {**SETTINGS, "n_steps": 2}
    two = {"seeds": [0, 1], **settings}
    assert "model 1 has other layers" in train_many([perceptron(0), strided(1)], data, **two).one_by_one
    run = train_many([perceptron(0), perceptron(1)], Items(data), subsets=[None, [1, 2, 3, 5, 8, 13, 21]], **two)
    assert "not tensors" in run.one_by_one
    model = perceptron(1)
    train(model, Subset(Items(data), [1, 2, 3, 5, 8, 13, 21]), collect="none", seed=1, **settings)
    assert "loss" in train_many([perceptron(0)], data, seeds=[0], loss=squares, **settings).one_by_one
    vit = small_vit(input_shape=(2, 8, 8), n_classes=3, dim=4, depth=1, n_heads=1).double()
    with pytest.raises(NotUnderstoodError):
        plan_of(vit, (2, 8, 8))


def squares(output, target):
    return (output - nn.functional.one_hot(target, 3)).square().sum(1)


def test_members_that_diverge_one_by_one_are_named_as_well():
    models = [Residual(0), Residual(1)]
    with torch.no_grad():
        next(models[0].parameters()).fill_(torch.inf)
    run = train_many(models, images(), seeds=[0, 1], n_steps=3, **SETTINGS)
    assert list(run.failures) == [0]


def test_gradients_that_are_not_pytorchs_are_noticed():
    data = images()
    plan = plan_of(strided(0), IMAGE)
    wrong = copy.deepcopy(plan)
    wrong.lines[0, 12], wrong.eps[1] = plan.lines[0, 12], 0.5
    member = Member(0, strided(0), None, {"n_records": 40, "batch_size": 7, "sampling": "shuffle", "seed": 0})
    Group(plan, Data(plan, *data), [member], stop=Event()).check()
    with pytest.raises(NotUnderstoodError, match="model 0"):
        Group(wrong, Data(plan, *data), [member], stop=Event()).check()


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"seeds": [0]}, ValueError, "seeds must have one entry per model, 2, got 1"),
        ({"seeds": [0, -1]}, ValueError, "seeds"),
        ({"seeds": 3}, TypeError, "seeds"),
        ({"subsets": [None]}, ValueError, "subsets must have one entry per model"),
        ({"subsets": [None, [40]]}, ValueError, r"subsets\[1\] must be within"),
        ({"subsets": [None, [0.5]]}, TypeError, r"subsets\[1\] must hold integers"),
        ({"subsets": [None, [3, 3]]}, ValueError, r"subsets\[1\] must not repeat a row"),
        ({"subsets": [None, []]}, ValueError, r"subsets\[1\]"),
        ({"subsets": [None, [1, 2]]}, ValueError, "batch_size must be <= 2"),
        ({"step_size": np.nan}, ValueError, "step_size"),
        ({"epochs": 2}, ValueError, "n_steps or epochs"),
        ({"memory_bytes": 0}, ValueError, "memory_bytes"),
        ({"threads": 0}, ValueError, "threads"),
        ({"clip": 1.0}, TypeError, "clip"),
        ({"privacy": None}, TypeError, "privacy"),
        ({"noise_std": -1.0}, ValueError, "noise_std"),
    ],
)
def test_wrong_arguments_are_refused_by_name_and_change_nothing(change, error, match):
    models = [perceptron(0), perceptron(1)]
    with pytest.raises(error, match=match):
        train_many(models, images(), **{"seeds": [0, 1], "n_steps": 3, **SETTINGS, **change})
    for seed, model in enumerate(models):
        assert torch.equal(weights_of(model), weights_of(perceptron(seed)))


def test_models_that_are_none_or_the_same_are_refused():
    model = perceptron(0)
    for models, error, match in [
        ([], ValueError, "at least one"),
        (model, TypeError, "sequence"),
        ([model, model], ValueError, "models 0 and 1"),
        ([model, 3], TypeError, "torch.nn.Module"),
    ]:
        with pytest.raises(error, match=match):
            train_many(models, images(), seeds=range(2), n_steps=2, **SETTINGS)


def test_labels_beyond_the_classes_are_refused_before_a_step():
    x, y = images()
    models = [perceptron(0)]
    with pytest.raises(ValueError, match="labels must be below 3, got 3"):
        train_many(models, (x, y + 1), seeds=[0], n_steps=2, **SETTINGS)
    assert torch.equal(weights_of(models[0]), weights_of(perceptron(0)))


# --- the kernel -------------------------------------------------------------------------------------


def kernel_call(make=strided, members=3, dtype=np.float64, seed=0):
    """Return arguments of a valid call by name."""
    rng = np.random.default_rng(seed)
    x, y = images()
    models = [make(k) for k in range(members)]
    plan = plan_of(models[0], IMAGE)
    parameters = np.stack([weights_of(model).numpy() for model in models]).astype(dtype)
    sizes = np.arange(members) * 9  # none, a few, and more than are taken at once
    rows = rng.integers(0, len(y), sizes.sum())
    return {
        "plan": plan.lines.copy(),
        "eps": plan.eps.copy(),
        "parameters": parameters,
        "images": np.ascontiguousarray(x.permute(0, 2, 3, 1).reshape(len(y), -1).numpy()).astype(dtype),
        "labels": y.numpy().copy(),
        "rows": rows,
        "ends": np.cumsum(sizes),
        "gradients": np.full_like(parameters, np.nan),
        "losses": np.full(rows.size, np.nan, dtype),
    }


def run_kernel(call, threads=1):
    backend.core.network_gradients(*call.values(), threads=threads)
    return call["gradients"], call["losses"]


@pytest.mark.parametrize("make", MAKERS)
def test_the_kernel_agrees_with_its_slow_twin(make):
    call = kernel_call(make, members=2)
    call["rows"], call["ends"] = call["rows"][:3], np.array([1, 3])
    call["losses"] = call["losses"][:3]
    inputs = {name: value.copy() for name, value in call.items()}
    gradients, losses = run_kernel(call)
    expected_gradients, expected_losses = oracles.network_gradients(
        *(inputs[name] for name in ("plan", "eps", "parameters", "images", "labels", "rows", "ends"))
    )
    np.testing.assert_allclose(losses, expected_losses, rtol=1e-12)
    np.testing.assert_allclose(gradients, expected_gradients, rtol=0, atol=1e-12 * np.abs(expected_gradients).max())
    for name in ("plan", "eps", "parameters", "images", "labels", "rows", "ends"):
        assert call[name].tobytes() == inputs[name].tobytes()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_bits_do_not_depend_on_threads_or_on_other_members(dtype):
    gradients, losses = run_kernel(kernel_call(dtype=dtype), threads=1)
    again, _ = run_kernel(kernel_call(dtype=dtype), threads=2)
    assert gradients.tobytes() == again.tobytes()
    assert not gradients[0].any()  # no rows
    call = kernel_call(dtype=dtype)
    last = call["ends"][-1]
    call.update(parameters=call["parameters"][2:], gradients=call["gradients"][2:], ends=np.array([last - 9]))
    call.update(rows=call["rows"][9:], losses=call["losses"][9:])
    some, own = run_kernel(call)
    assert some[0].tobytes() == gradients[2].tobytes()
    assert own.tobytes() == losses[9:].tobytes()


def test_a_nan_stays_in_its_member():
    clean, _ = run_kernel(kernel_call())
    call = kernel_call()
    call["parameters"][1, 0] = np.nan
    gradients, losses = run_kernel(call)
    assert np.isnan(losses[:9]).all()
    assert gradients[2].tobytes() == clean[2].tobytes()


def test_nothing_is_read_or_written_beyond_the_arrays():
    call = kernel_call(dtype=np.float32)
    wide = {}
    for name in ("parameters", "images", "gradients", "losses"):
        value = call[name]
        buffer = np.full(value.size + 64, np.nan, value.dtype)
        part = buffer[32 : 32 + value.size].reshape(value.shape)
        part[...] = value
        call[name], wide[name] = part, buffer
    gradients, losses = run_kernel(call)
    expected, expected_losses = run_kernel(kernel_call(dtype=np.float32))
    assert gradients.tobytes() == expected.tobytes()
    assert losses.tobytes() == expected_losses.tobytes()
    for buffer in wide.values():
        assert np.isnan(buffer[:32]).all()
        assert np.isnan(buffer[-32:]).all()


def changed(name, at, value):
    def change(call):
        call[name] = call[name].copy()
        call[name][at] = value

    return change


def replaced(name, make):
    def change(call):
        call[name] = make(call[name])

    return change


BAD = [
    (changed("rows", 0, 40), ValueError, "rows must be below 40, got 40"),
    (changed("rows", 0, -1), ValueError, "rows"),
    (changed("labels", slice(None), 3), ValueError, "labels must be below 3"),
    (changed("ends", 0, 28), ValueError, "ends"),
    (changed("ends", 2, 26), ValueError, "ends"),
    (changed("ends", 0, -1), ValueError, "ends"),
    (changed("eps", 1, 0.0), ValueError, "eps must be above 0"),
    (changed("eps", 1, np.nan), ValueError, "eps must be above 0"),
    (changed("plan", (0, 0), 6), ValueError, "plan must have known kinds, got another in layer 0"),
    (changed("plan", (0, 1), -1), ValueError, "plan"),
    (changed("plan", (0, 1), 1 << 40), ValueError, "plan"),
    (changed("plan", (0, 4), 30), ValueError, "plan must have windows that fit"),
    (changed("plan", (0, 6), 0), ValueError, "plan must have windows that fit"),
    (changed("plan", (1, 11), 4), ValueError, "plan must have groups"),
    (changed("plan", (1, 3), 7), ValueError, "plan must have inputs of the shape"),
    (changed("plan", (0, 12), 1 << 20), ValueError, "plan must have weights among"),
    (changed("plan", (0, 12), -1), ValueError, "plan must have weights among"),
    (changed("plan", (0, 13), 1 << 50), ValueError, "plan must have biases among"),
    (changed("plan", (7, 10), 0), ValueError, "plan must have at least one output"),
    (replaced("plan", lambda plan: plan[1:]), ValueError, "eps must have length"),
    (replaced("plan", lambda plan: plan.astype(np.int32)), TypeError, "plan must have dtype int64"),
    (replaced("images", lambda images: images[:, :-1].copy()), ValueError, "images"),
    (replaced("images", lambda images: images.astype(np.float32)), TypeError, "images must have dtype float64"),
    (replaced("losses", lambda losses: losses[:-1]), ValueError, "losses"),
    (replaced("gradients", lambda gradients: gradients[:, :-1].copy()), ValueError, "gradients"),
    (replaced("parameters", lambda values: values.tolist()), TypeError, "parameters must be a NumPy array"),
]


@pytest.mark.parametrize(("change", "error", "match"), BAD)
def test_the_kernel_refuses_by_name(change, error, match):
    call = kernel_call()
    change(call)
    before = np.array(call["losses"]).tobytes()
    with pytest.raises(error, match=re.escape(match)):
        run_kernel(call)
    assert np.array(call["losses"]).tobytes() == before


def test_outputs_that_share_memory_with_inputs_are_refused():
    call = kernel_call()
    call["gradients"] = call["parameters"]
    with pytest.raises(ValueError, match=r"gradients|parameters"):
        run_kernel(call)
