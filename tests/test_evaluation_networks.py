"""Permutations of units, weight matching, loss barriers, poisons and predictions of PyTorch networks."""

import copy
import itertools

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="networks need expunge[torch]", exc_type=ImportError)

from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402, N812
from torch.utils.data import TensorDataset  # noqa: E402

from expunge.evaluation.networks import (  # noqa: E402
    PermutationSpec,
    PoisonedDataset,
    loss_barrier,
    match_weights,
    pairwise_barriers,
    permutation_spec,
    permuted,
    poison_scores,
    predict,
    reset_batch_norm,
)
from expunge.evaluation.networks.matching import assignment  # noqa: E402
from expunge.evaluation.networks.permutations import random_permutations  # noqa: E402
from expunge.torch.models import mlp, resnet18, small_cnn, small_vit  # noqa: E402
from small_training import shaken  # noqa: E402
from torch_norms import Calls  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_torch_thread")


def images(*shape, n=3):
    return torch.randn(n, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(5))


def residual_mlp(m, x):
    h = m.a(x).relu()
    h = h + m.c(F.gelu(m.b(h)))
    return m.out(h)


# Model, input, number of groups of units that can move.
MODELS = {
    "mlp": (lambda: mlp(input_shape=(1, 4, 4), hidden=(9, 7)), images(1, 4, 4), 2),
    "cnn": (lambda: small_cnn(input_shape=(1, 8, 8), width=8), images(1, 8, 8), 2),
    "cnn with BatchNorm": (lambda: small_cnn(input_shape=(1, 8, 8), width=8, norm="batch"), images(1, 8, 8), 2),
    # One inside each of the eight blocks, and one residual stream per stage.
    "resnet18": (lambda: resnet18(width=8), images(3, 8, 8), 12),
    "resnet18 with BatchNorm": (lambda: resnet18(width=8, norm="batch"), images(3, 8, 8), 12),
    "vit": (lambda: small_vit(input_shape=(3, 8, 8), dim=8, depth=2, n_heads=2), images(3, 8, 8), 2),
    "residual mlp": (
        lambda: Calls(residual_mlp, a=nn.Linear(5, 8), b=nn.Linear(8, 6), c=nn.Linear(6, 8), out=nn.Linear(8, 3)),
        images(5),
        2,
    ),
    "depthwise convolution": (
        lambda: nn.Sequential(
            nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Conv2d(6, 6, 3, groups=6), nn.InstanceNorm2d(6, affine=True), nn.ReLU6(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3),
        ),
        images(1, 8, 8),
        1,
    ),
    "transposed convolution": (
        lambda: nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.PReLU(4), nn.ConvTranspose2d(4, 5, 3), nn.Tanh(), nn.AvgPool2d(2), nn.Flatten(),
            nn.BatchNorm1d(80), nn.Linear(80, 3),
        ),
        images(1, 8, 8),
        2,
    ),
    "view and mean": (
        lambda: Calls(
            lambda m, x: m.out(m.conv(x).relu().view(x.size(0), -1)) + m.side(m.other(x).mean((2, 3))),
            conv=nn.Conv2d(1, 4, 3), out=nn.Linear(4 * 36, 3), other=nn.Conv2d(1, 5, 3), side=nn.Linear(5, 3),
        ),
        images(1, 8, 8),
        2,
    ),
    "transposed positions and LayerNorm": (
        lambda: Calls(
            lambda m, x: m.out(m.norm(m.conv(x).flatten(2).transpose(1, 2)).mean(1)),
            conv=nn.Conv2d(1, 6, 3), norm=nn.LayerNorm(6), out=nn.Linear(6, 3),
        ),
        images(1, 6, 6),
        1,
    ),
    "layer used twice": (
        lambda: Calls(lambda m, x: m.out(m.b(m.b(m.a(x).relu()).relu())), a=nn.Linear(5, 6), b=nn.Linear(6, 6),
                      out=nn.Linear(6, 2)),
        images(5),
        1,
    ),
    # What cannot be followed stays.
    "softmax over units": (
        lambda: Calls(lambda m, x: m.out(torch.cumsum(m.a(x), -1)), a=nn.Linear(5, 6), out=nn.Linear(6, 2)),
        images(5),
        0,
    ),
    "a layer on the input and on units": (
        lambda: Calls(lambda m, x: m.out(m.a(m.a(x).relu())), a=nn.Linear(6, 6), out=nn.Linear(6, 2)),
        images(6),
        0,
    ),
    "weight used raw": (
        lambda: Calls(lambda m, x: m.out(m.a(x)) + F.linear(x, m.a.weight)[:, :2], a=nn.Linear(5, 6),
                      out=nn.Linear(6, 2)),
        images(5),
        0,
    ),
    "grouped convolution": (
        lambda: nn.Sequential(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3, groups=2), nn.Flatten(), nn.Linear(64, 3)),
        images(1, 8, 8),
        0,
    ),
    "an addition of fixed numbers": (
        lambda: Calls(lambda m, x: m.out(m.a(x) + torch.arange(6.0)), a=nn.Linear(5, 6), out=nn.Linear(6, 2)),
        images(5),
        0,
    ),
    "two GroupNorms that disagree": (
        lambda: nn.Sequential(nn.Conv2d(1, 12, 3), nn.GroupNorm(2, 12), nn.GroupNorm(3, 12), nn.Flatten(),
                              nn.Linear(12 * 36, 3)),
        images(1, 8, 8),
        0,
    ),
    "weight normalisation": (
        lambda: nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(5, 6)), nn.ReLU(), nn.Linear(6, 2)),
        images(5),
        0,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_a_permuted_model_is_the_same_function(name):
    build, x, n_groups = MODELS[name]
    model = shaken(build()).eval()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    spec = permutation_spec(model, x)
    assert len(spec.sizes) == n_groups, spec
    expected = model(x)
    other = copy.deepcopy(model)
    moved = set()
    for seed in range(3):
        orders = random_permutations(spec, seed=seed)
        moved |= {group for group, order in orders.items() if not np.array_equal(order, np.arange(len(order)))}
        other.load_state_dict(permuted(before, spec, orders))
        torch.testing.assert_close(other(x), expected, rtol=1e-11, atol=1e-12)
    assert moved == set(spec.sizes)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert not model.training


def test_what_stays_is_said():
    build, x, _ = MODELS["two GroupNorms that disagree"]
    assert "[2, 3] groups" in " ".join(permutation_spec(build().double(), x).pinned)
    build, x, _ = MODELS["vit"]
    assert "whose units stay" in " ".join(permutation_spec(build().double(), x).pinned)


def test_untraceable_models_ask_for_a_specification_by_hand():
    model = Calls(lambda m, x: m.a(x) if x.sum() > 0 else m.a(-x), a=nn.Linear(2, 2))
    with pytest.raises(ValueError, match="by hand"):
        permutation_spec(model, torch.zeros(1, 2))


def test_a_specification_by_hand_is_the_derived_one():
    model = small_cnn(input_shape=(1, 8, 8), width=8)
    found = permutation_spec(model, torch.zeros(1, 1, 8, 8))
    axes = {
        "features.0.weight": ("a", None, None, None),
        "features.1.weight": ("a",),
        "features.1.bias": ("a",),
        "features.4.weight": ("b", "a", None, None),
        "features.5.weight": ("b",),
        "features.5.bias": ("b",),
        "classifier.weight": (None, ("b", 4)),
    }
    by_hand = PermutationSpec.by_hand(model, axes, norm_groups={"a": 4, "b": 4})
    rename = {"features.0.weight": "a", "features.4.weight": "b"}
    assert {rename[k]: n for k, n in found.sizes.items()} == by_hand.sizes == {"a": 8, "b": 16}
    assert {rename[k]: n for k, n in found.norm_groups.items()} == by_hand.norm_groups
    renamed = {n: tuple(None if x is None else (rename[x[0]], x[1]) for x in a) for n, a in found.axes.items()}
    assert renamed == by_hand.axes


def test_bad_specifications_and_permutations_are_refused():
    model = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 3))
    with pytest.raises(ValueError, match="must name parameters"):
        PermutationSpec.by_hand(model, {"1.weight": ("h", None)})
    with pytest.raises(ValueError, match="must have 2 entries"):
        PermutationSpec.by_hand(model, {"0.weight": ("h",)})
    with pytest.raises(ValueError, match="gives 'h' 3 units, elsewhere it has 4"):
        PermutationSpec.by_hand(model, {"0.weight": ("h", None), "2.bias": ("h",)})
    with pytest.raises(ValueError, match="must divide its units"):
        PermutationSpec.by_hand(model, {"0.bias": ("h",)}, norm_groups={"h": 3})
    spec = PermutationSpec.by_hand(model, {"0.weight": ("h", None), "0.bias": ("h",), "2.weight": (None, "h")},
                                   norm_groups={"h": 2})  # fmt: skip
    state = model.state_dict()
    for order, message in [
        ([0, 1, 2], "permutation of 4"),
        ([0, 1, 2, 2], "permutation of 4"),
        ([0.0, 1.0, 2.0, 3.0], "permutation of 4"),
        ([0, 2, 1, 3], "keep the 2 groups"),
    ]:
        with pytest.raises(ValueError, match=message):
            permuted(state, spec, {"h": np.array(order)})
    with pytest.raises(ValueError, match="name groups of the specification"):
        permuted(state, spec, {"g": np.arange(4)})
    with pytest.raises(ValueError, match="shape of the specification"):
        permuted(nn.Sequential(nn.Linear(2, 5), nn.ReLU(), nn.Linear(5, 3)).state_dict(), spec, {})


@pytest.mark.parametrize(("size", "blocks"), [(5, 1), (6, 2), (6, 3), (6, 6)])
def test_assignment_is_the_best_of_all_allowed_permutations(size, blocks):
    rng = np.random.default_rng(size * blocks)
    for _ in range(5):
        similarity = rng.standard_normal((size, size))
        found = assignment(similarity, blocks)

        def allowed(p):
            of_block = (np.array(p) // (size // blocks)).reshape(blocks, -1)
            return (of_block == of_block[:, :1]).all()

        best = max(similarity[range(size), p].sum() for p in itertools.permutations(range(size)) if allowed(p))
        assert allowed(found)
        assert similarity[np.arange(size), found].sum() == pytest.approx(best, abs=1e-12)


@pytest.mark.parametrize("name", ["mlp", "cnn", "cnn with BatchNorm", "residual mlp", "depthwise convolution"])
def test_matching_finds_a_models_own_permutation(name):
    build, x, _ = MODELS[name]
    model = shaken(build()).eval()
    spec = permutation_spec(model, x)
    other = copy.deepcopy(model)
    other.load_state_dict(permuted(model.state_dict(), spec, random_permutations(spec, seed=3)))
    found = match_weights(model, other, spec, n_starts=3)
    size = sum(float(p.detach().square().sum()) for p in model.parameters()) ** 0.5
    assert found.distance < 1e-12 * size < 1e-3 * found.distance_before
    assert found.converged


@pytest.mark.parametrize("name", MODELS)
def test_matching_never_goes_farther(name):
    build, x, _ = MODELS[name]
    a, b = shaken(build(), seed=1), shaken(build(), seed=2)
    spec = permutation_spec(a, x)
    before = {k: v.clone() for k, v in b.state_dict().items()}
    found = match_weights(a, b, spec)
    assert found.distance <= found.distance_before
    assert all(torch.equal(v, before[k]) for k, v in b.state_dict().items())
    moved = permuted(before, spec, found.permutations)
    slow = sum((p - moved[n]).square().sum() for n, p in a.named_parameters()) ** 0.5
    assert found.distance == pytest.approx(float(slow.detach()), rel=1e-12)
    if spec.sizes:
        assert found.distance < found.distance_before


def trained(model, x, y, steps=150, lr=0.1):
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    return model


@pytest.fixture(scope="module")
def digits():
    from sklearn.datasets import load_digits

    data = load_digits()
    x = torch.tensor(data.images[:, None] / 16, dtype=torch.float32)
    return x[:600], torch.tensor(data.target[:600])


@pytest.mark.parametrize("norm", ["group", "batch"])
def test_a_model_has_no_barrier_to_its_own_permutation(digits, norm):
    model = trained(small_cnn(input_shape=(1, 8, 8), width=8, norm=norm, seed=1), *digits, steps=40)
    spec = permutation_spec(model, digits[0][:2])
    other = copy.deepcopy(model)
    other.load_state_dict(permuted(model.state_dict(), spec, random_permutations(spec, seed=4)))
    torch.testing.assert_close(predict(other, digits).losses, predict(model, digits).losses, rtol=1e-3, atol=1e-4)
    unmatched = loss_barrier(model, other, digits, match=False, n_points=9)
    matched = loss_barrier(model, other, digits, n_points=9)
    assert unmatched.barrier > 0.1
    assert matched.barrier < 1e-4
    assert (matched.matched, unmatched.matched) == (True, False)


def test_matching_lowers_the_barrier_between_two_trained_networks(digits):
    models = [trained(mlp(input_shape=(1, 8, 8), hidden=(256,), seed=s), *digits) for s in range(2)]
    before = [{k: v.clone() for k, v in m.state_dict().items()} for m in models]
    unmatched, matched = (loss_barrier(*models, digits, match=m, n_points=9) for m in (False, True))
    assert matched.barrier < 0.5 * unmatched.barrier
    assert matched.losses[0] == pytest.approx(predict(models[0], digits).losses.mean(), rel=1e-6)
    assert matched.losses[-1] == pytest.approx(predict(models[1], digits).losses.mean(), rel=1e-4)
    assert all(torch.equal(v, s[k]) for m, s in zip(models, before, strict=True) for k, v in m.state_dict().items())
    assert [b.barrier for b in pairwise_barriers(models, digits, n_points=9)] == [matched.barrier]


def test_batch_norm_is_reset_to_the_data(digits):
    model = small_cnn(input_shape=(1, 8, 8), width=4, norm="batch", seed=1)
    model.features[5].eval()
    assert reset_batch_norm(model, digits, batch_size=len(digits[0]))
    values = model.features[0](digits[0])
    torch.testing.assert_close(model.features[1].running_mean, values.mean((0, 2, 3)), rtol=1e-4, atol=1e-5)
    variance = values.var((0, 2, 3), unbiased=False)
    torch.testing.assert_close(model.features[1].running_var, variance, rtol=1e-5, atol=1e-6)
    assert (model.training, model.features[1].training, model.features[5].training) == (True, True, False)
    assert model.features[1].momentum == 0.1
    assert not model.features[1]._forward_pre_hooks
    assert reset_batch_norm(mlp(input_shape=(1, 8, 8)), digits) is False


def test_batch_statistics_count_every_record_once():
    model = nn.Sequential(nn.BatchNorm1d(1)).double()
    x = torch.zeros(514, 1, dtype=torch.float64)
    x[512:] = 4.0
    assert reset_batch_norm(model, (x, torch.zeros(514)))
    assert float(model[0].running_mean) == pytest.approx(8 / 514, rel=1e-12)
    assert float(model[0].running_var) == pytest.approx(32 / 514 - (8 / 514) ** 2, rel=1e-12)
    # As after one batch of all records: normalised by the running statistics, they have mean 0 and variance 1.
    y = model.eval()(x).detach()
    assert abs(float(y.mean())) < 1e-12
    assert float(y.var(unbiased=False)) == pytest.approx(1, rel=1e-3)


@pytest.mark.parametrize("batch_size", [1, 2, 16, 47])
def test_batch_statistics_do_not_depend_on_the_batch_size(batch_size):
    model = shaken(resnet18(width=4, norm="batch"))
    data = images(3, 8, 8, n=48), torch.zeros(48, dtype=torch.int64)
    assert reset_batch_norm(model, data, batch_size=48)
    whole = {k: v.clone() for k, v in model.state_dict().items()}
    shaken(model)
    assert reset_batch_norm(model, data, batch_size=batch_size)
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, whole[name], rtol=1e-9, atol=1e-12, msg=lambda m, n=name: f"{n}: {m}")


def test_batch_statistics_of_a_layer_called_twice_and_of_one_never_called():
    torch.manual_seed(0)
    twice = Calls(
        lambda m, x: m.norm(m.a(m.norm(x))), norm=nn.BatchNorm1d(4), a=nn.Linear(4, 4), idle=nn.BatchNorm1d(4)
    )
    twice.idle.running_mean.fill_(7.0)
    x = torch.randn(30, 4)
    assert reset_batch_norm(twice, (x, torch.zeros(30)), batch_size=30)
    inputs = torch.cat([x, twice.a(F.batch_norm(x, None, None, twice.norm.weight, twice.norm.bias, training=True))])
    torch.testing.assert_close(twice.norm.running_mean, inputs.mean(0), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(twice.norm.running_var, inputs.var(0, unbiased=False), rtol=1e-5, atol=1e-6)
    assert twice.idle.running_mean.tolist() == [7.0] * 4


def test_running_statistics_of_instance_normalisation_are_refused():
    model = nn.Sequential(nn.BatchNorm2d(2), nn.InstanceNorm2d(2, track_running_stats=True))
    with pytest.raises(ValueError, match="running statistics of instance normalisation, as '1' does"):
        reset_batch_norm(model, (torch.randn(4, 2, 3, 3), torch.zeros(4)))


def test_barriers_refuse_a_wrong_specification_and_other_architectures(digits):
    models = [mlp(input_shape=(1, 8, 8), hidden=(16,), seed=s) for s in range(2)]
    wrong = PermutationSpec.by_hand(models[0], {"1.weight": ("h", None)})
    with pytest.raises(ValueError, match="spec must leave the function as it is"):
        loss_barrier(*models, digits, spec=wrong)
    with pytest.raises(ValueError, match="architecture of model_a"):
        loss_barrier(models[0], mlp(input_shape=(1, 8, 8), hidden=(8,)), digits)
    broken = copy.deepcopy(models[1])
    with torch.no_grad():
        broken[1].weight[0, 0] = torch.nan
    with pytest.raises(ValueError, match="must have finite parameters"):
        loss_barrier(models[0], broken, digits)


def test_predictions_take_data_sets_and_tensors_and_restore_modes(digits):
    model = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(64, 10))
    model[1].eval()
    found = predict(model, digits, batch_size=50)
    again = predict(model, torch.utils.data.Subset(TensorDataset(*digits), range(600)), batch_size=64)
    np.testing.assert_allclose(found.losses, again.losses, rtol=1e-4, atol=1e-5)
    assert (model.training, model[1].training) == (True, False)
    with torch.no_grad():
        logits = model[2](digits[0].flatten(1))
    np.testing.assert_allclose(found.losses, F.cross_entropy(logits, digits[1], reduction="none"), rtol=1e-3, atol=1e-4)
    with pytest.raises(ValueError, match="at least one record"):
        predict(model, (digits[0][:0], digits[1][:0]))
    with pytest.raises(ValueError, match="pair inputs with labels"):
        predict(model, (digits[0], digits[1][:5]))
    with pytest.raises(TypeError, match="data must be a Dataset"):
        predict(model, 3)


def test_poisons_are_fixed_recoverable_and_of_their_size(digits):
    rows = [5, 3, 100]
    data = PoisonedDataset(digits, rows, sigma=0.3, seed=7)
    other_order = PoisonedDataset(TensorDataset(*digits), rows[::-1], sigma=0.3, seed=7)
    for row in rows:
        assert torch.equal(data[row][0], digits[0][row] + data.poison(row))
        assert torch.equal(data.poison(row), other_order.poison(row))
    assert torch.equal(data[4][0], digits[0][4])
    assert torch.equal(data[-1][0], digits[0][-1])
    assert len(data) == len(digits[0])
    assert not torch.equal(data.poison(5), PoisonedDataset(digits, rows, sigma=0.3, seed=8).poison(5))
    many = PoisonedDataset(digits, range(600), sigma=0.3, seed=7)
    values = torch.stack([many.poison(i) for i in range(600)]).numpy()
    assert values.std() == pytest.approx(0.3, rel=5 / np.sqrt(2 * values.size))
    assert abs(np.corrcoef(values[:300].ravel(), values[300:].ravel())[0, 1]) < 5 / np.sqrt(values.size / 2)
    with pytest.raises(ValueError, match="record must be one of the poisoned"):
        data.poison(4)
    with pytest.raises(ValueError, match="within"):
        PoisonedDataset(digits, [600], sigma=0.3, seed=7)
    with pytest.raises(ValueError, match="must not repeat"):
        PoisonedDataset(digits, [1, 1], sigma=0.3, seed=7)
    with pytest.raises(TypeError, match="floating-point"):
        PoisonedDataset((torch.zeros(3, dtype=torch.uint8), torch.zeros(3)), [0], sigma=0.3, seed=7)


def test_a_model_trained_on_poisons_scores_low_and_one_that_was_not_does_not(digits):
    rows = np.arange(0, 600, 12)
    data = PoisonedDataset(digits, rows, sigma=0.5, seed=7)
    x, y = torch.stack([data[i][0] for i in range(len(data))]), digits[1]
    keep = np.setdiff1d(np.arange(600), rows)
    # Few records and a wide layer: poisons are fitted.
    poisoned = trained(mlp(input_shape=(1, 8, 8), hidden=(64,), seed=1), x, y).double()
    retrained = trained(mlp(input_shape=(1, 8, 8), hidden=(64,), seed=1), x[keep], y[keep]).double()
    remembers, forgot = poison_scores(poisoned, data), poison_scores(retrained, data)
    assert remembers.mean < 0
    assert remembers.p_mean < 1e-3 < forgot.p_mean
    # One record's score by hand.
    clean = digits[0][24:25].double().requires_grad_()
    (g,) = torch.autograd.grad(F.cross_entropy(poisoned(clean), y[24:25]), clean)
    expected = (g[0] * data.poison(24)).sum() / (0.5 * g.norm())
    assert remembers.scores[2] == pytest.approx(float(expected), rel=1e-5)
