"""Permutation specifications deny by default: a permuted network is the same function, or its units stay."""

import copy

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch", reason="networks need expunge[torch]", exc_type=ImportError)

from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402, N812

from expunge.evaluation.networks import (  # noqa: E402
    PermutationSpec,
    loss_barrier,
    match_weights,
    permutation_spec,
    permuted,
    tracing,
)
from expunge.evaluation.networks.permutations import random_permutations  # noqa: E402
from small_training import shaken  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_torch_thread")


class Chain(nn.Module):
    """Functions of (their own layer, activation) one after the other."""

    def __init__(self, steps):
        super().__init__()
        self.layers = nn.ModuleList(layer for layer, _ in steps)
        self.functions = [function for _, function in steps]

    def forward(self, x):
        for layer, function in zip(self.layers, self.functions, strict=True):
            x = function(layer, x)
        return x


def plain(function):
    return lambda c, n: (nn.Identity(), lambda m, h: function(h), c)


# A step takes channels and length, and gives (layer, function, channels): activations are (batch, channels, length).
STEPS = {
    "conv": lambda c, n: (nn.Conv1d(c, 4, 3, padding=1), lambda m, h: m(h), 4),
    "conv to another width": lambda c, n: (nn.Conv1d(c, 6, 1), lambda m, h: m(h), 6),
    "residual": lambda c, n: (nn.Conv1d(c, c, 1), lambda m, h: h + m(h).relu(), c),
    "gate": lambda c, n: (nn.Conv1d(c, c, 1), lambda m, h: h * m(h).sigmoid(), c),
    "positions": lambda c, n: (nn.Linear(n, n), lambda m, h: m(h), c),
    "units last": lambda c, n: (nn.Linear(c, c), lambda m, h: m(h.transpose(1, 2)).permute(0, 2, 1), c),
    "batch norm": lambda c, n: (nn.BatchNorm1d(c), lambda m, h: m(h), c),
    "group norm": lambda c, n: (nn.GroupNorm(2, c), lambda m, h: m(h), c),
    "instance norm": lambda c, n: (nn.InstanceNorm1d(c, affine=True), lambda m, h: m(h), c),
    "layer norm": lambda c, n: (nn.LayerNorm((c, n)), lambda m, h: m(h), c),
    "layer norm of positions": lambda c, n: (nn.LayerNorm(n), lambda m, h: m(h), c),
    "relu": plain(torch.relu),
    "gelu": plain(lambda h: F.gelu(h, approximate="tanh")),
    "mean(axis=1)": plain(lambda h: h - h.mean(axis=1, keepdim=True)),
    "mean(axis=2)": plain(lambda h: h - h.mean(axis=2, keepdims=True)),
    "mean(dim=-1)": plain(lambda h: h * h.mean(dim=-1, keepdim=True)),
    "sum(axis=1)": plain(lambda h: h + h.sum(axis=(1,), keepdim=True)),
    "sum(axis=-1)": plain(lambda h: h + torch.sum(h, axis=-1, keepdim=True)),
    "mean without keepdim": plain(lambda h: h + h.mean(axis=1)[:, None]),
    "mean in another dtype": plain(lambda h: h - h.mean(axis=2, keepdim=True, dtype=torch.float64)),
    "mean of everything": plain(lambda h: h - h.mean()),
    "softmax over units": plain(lambda h: F.softmax(h, 1)),
    "cumsum": plain(lambda h: h.cumsum(1)),
    "flip": plain(lambda h: h.flip(1)),
    "roll": plain(lambda h: torch.roll(h, 1, 1)),
    "sort": plain(lambda h: h.sort(1).values),
    "amax": plain(lambda h: h - h.amax(1, keepdim=True)),
    "half of the units": plain(lambda h: h * (torch.arange(h.shape[1])[:, None] > 1)),
    "swap with positions": lambda c, n: (
        nn.Identity(), (lambda m, h: h + h.transpose(1, 2)) if c == n else (lambda m, h: h), c
    ),
    "reinterpreted": plain(lambda h: h.reshape(h.shape[0], -1).reshape(h.shape)),
    "cat": lambda c, n: (nn.Conv1d(2 * c, c, 1), lambda m, h: m(torch.cat([h, h], dim=1)), c),
    "in place": plain(lambda h: h.mul(1.5).add_(h).relu_()),
    "scaled addition": plain(lambda h: torch.add(h, h.mean(axis=1, keepdim=True), alpha=2)),
    "max pool": lambda c, n: (nn.MaxPool1d(3, stride=1, padding=1), lambda m, h: m(h), c),
    "pool over units": lambda c, n: (
        nn.AvgPool1d(3, stride=1, padding=1), lambda m, h: m(h.transpose(1, 2)).transpose(1, 2), c
    ),
}  # fmt: skip
HEADS = {
    "flatten": lambda c, n: (nn.Linear(c * n, 2), lambda m, h: m(h.flatten(1))),
    "flatten all but the batch": lambda c, n: (nn.Linear(c * n, 2), lambda m, h: m(torch.flatten(h, start_dim=1))),
    "view": lambda c, n: (nn.Linear(c * n, 2), lambda m, h: m(h.contiguous().view(h.size(0), -1))),
    "mean(axis=2)": lambda c, n: (nn.Linear(c, 2), lambda m, h: m(h.mean(axis=2))),
    "sum(axis=[-1])": lambda c, n: (nn.Linear(c, 2), lambda m, h: m(h.sum(axis=[-1]))),
    "mean((2,))": lambda c, n: (nn.Linear(c, 2), lambda m, h: m(h.mean((2,)))),
    "torch.mean(axis=1)": lambda c, n: (nn.Linear(n, 2), lambda m, h: m(torch.mean(h, axis=1))),
    "units last": lambda c, n: (nn.Linear(c, 2), lambda m, h: m(h.permute(0, 2, 1)).sum(axis=1)),
    "no layer": lambda c, n: (nn.Identity(), lambda m, h: h.mean(axis=-1)),
}
LENGTH = 4


def network(steps, head):
    layer, channels = nn.Conv1d(2, 4, 1), 4
    built = [(layer, lambda m, x: m(x))]
    for name in steps:
        layer, function, channels = STEPS[name](channels, LENGTH)
        built.append((layer, function))
    built.append(HEADS[head](channels, LENGTH))
    return Chain(built)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from(sorted(STEPS)), max_size=4), st.sampled_from(sorted(HEADS)), st.integers(1, 4))
def test_a_permuted_random_network_is_the_same_function(steps, head, batch):
    with pytest.MonkeyPatch.context() as patch:
        # The rules are right by themselves, not because the outcome is tested.
        patch.setattr(tracing, "verify_structure", lambda *a, **k: None)
        model = shaken(network(steps, head).eval(), seed=len(steps))
        x = torch.randn(batch, 2, LENGTH, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
        spec = permutation_spec(model, x)
    expected = model(x)
    other = copy.deepcopy(model)
    for seed in range(2):
        other.load_state_dict(permuted(model.state_dict(), spec, random_permutations(spec, seed=seed)))
        scale = float(expected.detach().abs().max())
        torch.testing.assert_close(other(x), expected, rtol=1e-10, atol=1e-10 * scale)


@pytest.mark.parametrize("step", ["relu", "mean(axis=1)", "mean(axis=2)", "sum(axis=-1)", "mean(dim=-1)", "batch norm"])
def test_what_has_a_rule_is_still_permuted(step):
    spec = permutation_spec(network(["conv", step, "conv"], "mean(axis=2)"), torch.randn(3, 2, LENGTH))
    assert len(spec.sizes) == 3, spec.pinned


@pytest.mark.parametrize(
    ("step", "reason"),
    [
        ("softmax over units", "softmax is not understood"),
        ("cumsum", "cumsum is not understood"),
        ("mean in another dtype", "mean with settings that are not understood"),
        ("scaled addition", "with settings is not understood"),
    ],
)
def test_what_has_no_rule_stays_by_name(step, reason):
    spec = permutation_spec(network([step], "flatten").double(), torch.randn(3, 2, LENGTH, dtype=torch.float64))
    assert spec.sizes == {}
    assert reason in " ".join(spec.pinned)


def test_a_rule_that_is_wrong_is_refused(monkeypatch):
    # As it was: axis= is not read, and units that are kept apart are taken for summed up.
    monkeypatch.setattr(tracing.Follower, "_reduced", lambda self, node, label, ndim: None)
    with pytest.raises(ValueError, match="spec must leave the function as it is"):
        permutation_spec(network([], "mean(axis=2)"), torch.zeros(3, 2, LENGTH))


def hooked(where):
    model = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2))
    part = model if where == "" else model[int(where)]
    return model, part


@pytest.mark.parametrize("where", ["", "0", "1"])
@pytest.mark.parametrize("kind", ["register_forward_hook", "register_forward_pre_hook"])
def test_forward_hooks_are_refused_by_name(where, kind):
    model, part = hooked(where)
    getattr(part, kind)(lambda m, args, *out: (out or args)[0] * torch.arange(args[0].shape[-1]))
    with pytest.raises(ValueError, match=f"module '{where or 'model'}' .* must have no forward hooks.*remove them"):
        permutation_spec(model, torch.zeros(2, 3))


def test_a_forward_of_its_own_and_global_hooks_are_refused():
    model, part = hooked("1")
    part.forward = lambda h: h.cumsum(-1)
    with pytest.raises(ValueError, match=r"module '1' \(ReLU\) must have the forward of its class"):
        permutation_spec(model, torch.zeros(2, 3))
    handle = nn.modules.module.register_module_forward_hook(lambda m, args, out: None)
    try:
        with pytest.raises(ValueError, match="forward hooks on all modules must be removed"):
            permutation_spec(hooked("")[0], torch.zeros(2, 3))
    finally:
        handle.remove()


def test_parameters_that_share_memory_are_refused_and_one_parameter_used_twice_is_not():
    model = Chain([(nn.Linear(4, 4), lambda m, x: m(x).relu()), (nn.Linear(4, 4), lambda m, x: m(x))])
    model.layers[1].bias = nn.Parameter(model.layers[0].bias.data)
    with pytest.raises(ValueError, match=r"must not share memory, as 'layers\.0\.bias' and 'layers\.1\.bias' do"):
        permutation_spec(model, torch.zeros(2, 4))
    model.layers[1].bias = model.layers[0].bias
    permutation_spec(model, torch.zeros(2, 4))


def test_layers_without_a_batch_axis_stay():
    model = Chain([(nn.Conv1d(4, 4, 1), lambda m, x: m(x)), (nn.Linear(4, 4), lambda m, x: m(x.relu()))])
    assert permutation_spec(model, torch.randn(4, 4)).sizes == {}


def wrong_by_hand(head_scale):
    torch.manual_seed(0)
    models = [nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 2)) for _ in range(2)]
    with torch.no_grad():
        for model in models:
            model[2].weight *= head_scale
    return models, PermutationSpec.by_hand(models[0], {"0.weight": ("h", None), "0.bias": ("h",)})


@pytest.mark.parametrize("head_scale", [1.0, 1e-6])
def test_a_small_head_hides_no_wrong_specification(head_scale):
    models, spec = wrong_by_hand(head_scale)
    x = torch.randn(40, 3)
    with pytest.raises(ValueError, match="spec must leave the function as it is"):
        match_weights(*models, spec, inputs=x)
    with pytest.raises(ValueError, match="spec must leave the function as it is"):
        loss_barrier(*models, (x, torch.zeros(40, dtype=torch.int64)), spec=spec)


def test_a_head_of_zeros_hides_no_wrong_specification():
    models, spec = wrong_by_hand(0.0)
    with pytest.raises(ValueError, match="spec must leave the function as it is"):
        loss_barrier(*models, (torch.randn(40, 3), torch.zeros(40, dtype=torch.int64)), spec=spec)


def test_matching_with_a_right_specification_is_verified_and_found():
    models, _ = wrong_by_hand(1.0)
    x = torch.randn(40, 3)
    spec = permutation_spec(models[0], x)
    found = match_weights(*models, spec, inputs=x)
    assert found.status == "estimate"
    assert not np.array_equal(found.permutations["0.weight"], np.arange(6))
