"""Opacus with Expunge's kernels: norms are exact, steps are the same, and runs are read record by record."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("opacus", reason="needs the extra opacus")

from opacus import PrivacyEngine  # noqa: E402
from opacus.grad_sample import GradSampleHooksFastGradientClipping as Hooks  # noqa: E402
from opacus.grad_sample import GradSampleModule, GradSampleModuleFastGradientClipping  # noqa: E402
from opacus.optimizers import DPOptimizer, DPOptimizerFastGradientClipping  # noqa: E402
from opacus.utils.batch_memory_manager import BatchMemoryManager  # noqa: E402
from opacus.utils.fast_gradient_clipping_utils import DPLossFastGradientClipping  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402, N812

from expunge.accounting import rdp  # noqa: E402
from expunge.integrations import opacus  # noqa: E402
from expunge.integrations.opacus import _samplers  # noqa: E402

pytestmark = [
    pytest.mark.filterwarnings("ignore:Secure RNG turned off"),
    pytest.mark.filterwarnings("ignore:Full backward hook is firing"),
    pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths"),
]

EXAMPLES = 4


@pytest.fixture(autouse=True)
def kernels() -> Iterator[None]:
    opacus.register()
    yield
    opacus.unregister()


def normal(*shape: int, seed: int = 0, dtype: Any = torch.float64) -> Any:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def whole(high: int, *shape: int) -> Any:
    return torch.randint(0, high, shape, generator=torch.Generator().manual_seed(3))


def losses_of(output: Any) -> Any:
    """Losses of the examples, with another gradient in every place."""
    weights = torch.linspace(-1.0, 2.0, output[0].numel(), dtype=output.dtype).reshape(output.shape[1:])
    return (weights * output + 0.5 * output.square()).flatten(1).sum(1)


def exact_norms(model: Any, inputs: Any, losses: Any = losses_of) -> dict[str, Any]:
    """Norms by parameter from autograd on one example at a time."""
    found: dict[str, list[Any]] = {name: [] for name, p in model.named_parameters() if p.requires_grad}
    for i in range(len(inputs)):
        model.zero_grad(set_to_none=True)
        losses(model(inputs[i : i + 1])).sum().backward()
        for name in found:
            found[name].append(dict(model.named_parameters())[name].grad.norm())
    model.zero_grad(set_to_none=True)
    return {name: torch.stack(norms) for name, norms in found.items()}


def ghost_norms(model: Any, inputs: Any, reduction: str = "sum") -> dict[str, Any]:
    wrapped = GradSampleModuleFastGradientClipping(copy.deepcopy(model), loss_reduction=reduction)
    losses = losses_of(wrapped(inputs))
    (losses.mean() if reduction == "mean" else losses.sum()).backward()
    return {name: p._norm_sample for name, p in wrapped._module.named_parameters() if p.requires_grad}


def layers() -> dict[str, tuple[Any, Any]]:
    torch.manual_seed(0)
    conv = {f"conv2d, {mode}": (nn.Conv2d(4, 6, 3, padding=(2, 1), padding_mode=mode, groups=2, stride=(1, 2)),
                                normal(EXAMPLES, 4, 5, 6))
            for mode in ("zeros", "circular", "reflect", "replicate")}  # fmt: skip
    same = {f"conv1d, same, {mode}": (nn.Conv1d(2, 3, 4, padding="same", dilation=1, padding_mode=mode),
                                      normal(EXAMPLES, 2, 7))
            for mode in ("zeros", "circular")}  # fmt: skip
    cases = {
        "linear": (nn.Linear(5, 3), normal(EXAMPLES, 5)),
        "linear, 3 axes": (nn.Linear(5, 3), normal(EXAMPLES, 6, 5)),
        "linear, 4 axes": (nn.Linear(5, 3), normal(EXAMPLES, 2, 6, 5)),
        "linear, no bias": (nn.Linear(5, 3, bias=False), normal(EXAMPLES, 6, 5)),
        **conv,
        **same,
        "conv1d": (nn.Conv1d(2, 3, 3, dilation=2, bias=False), normal(EXAMPLES, 2, 9)),
        "conv2d, valid": (nn.Conv2d(2, 3, 2, padding="valid"), normal(EXAMPLES, 2, 4, 5)),
        "conv3d": (nn.Conv3d(2, 3, 2, padding=1), normal(EXAMPLES, 2, 3, 4, 2)),
        "embedding": (nn.Embedding(7, 3), whole(7, EXAMPLES, 9)),
        "embedding, padding": (nn.Embedding(7, 3, padding_idx=2), whole(7, EXAMPLES, 9)),
        "layer norm": (nn.LayerNorm(5), normal(EXAMPLES, 6, 5)),
        "layer norm, two axes": (nn.LayerNorm((6, 5), eps=0.1), normal(EXAMPLES, 2, 6, 5)),
        "layer norm, no bias": (nn.LayerNorm(5, bias=False), normal(EXAMPLES, 6, 5)),
        "rms norm": (nn.RMSNorm(5), normal(EXAMPLES, 6, 5)),
        "rms norm, eps": (nn.RMSNorm((6, 5), eps=0.1), normal(EXAMPLES, 6, 5)),
        "group norm": (nn.GroupNorm(2, 6, eps=0.1), normal(EXAMPLES, 6, 5)),
        "instance norm": (nn.InstanceNorm2d(3, affine=True), normal(EXAMPLES, 3, 4, 5)),
    }
    for layer, _ in cases.values():
        for p in layer.parameters():  # weights of norms are ones otherwise
            nn.init.normal_(p)
    return {name: (layer.double(), x) for name, (layer, x) in cases.items()}


@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("label", list(layers()))
def test_norms_are_those_of_one_example_at_a_time(label: str, reduction: str) -> None:
    layer, inputs = layers()[label]
    assert type(layer) in Hooks.NORM_SAMPLERS
    exact = exact_norms(layer, inputs)
    found = ghost_norms(layer, inputs, reduction)
    assert set(found) == set(exact)
    for name, norms in exact.items():
        assert found[name].dtype is torch.float64
        torch.testing.assert_close(found[name], norms, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("label", ["linear, 3 axes", "conv2d, zeros", "layer norm", "group norm"])
@pytest.mark.parametrize("frozen", ["weight", "bias"])
def test_a_frozen_parameter_has_no_norms(label: str, frozen: str) -> None:
    layer, inputs = layers()[label]
    getattr(layer, frozen).requires_grad_(False)
    other = "bias" if frozen == "weight" else "weight"
    found = ghost_norms(layer, inputs)
    assert set(found) == {other}
    torch.testing.assert_close(found[other], exact_norms(layer, inputs)[other], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("label", [label for label in layers() if "embedding" not in label])
def test_an_empty_batch_has_no_norms(label: str) -> None:
    layer, inputs = layers()[label]
    grads = layer(inputs).detach()[:0]
    for norms in Hooks.NORM_SAMPLERS[type(layer)](layer, [inputs[:0]], grads).values():
        assert norms.shape == (0,)


def test_half_precision_loses_no_digits_in_the_norm() -> None:
    layer, inputs = nn.Linear(64, 32), normal(EXAMPLES, 16, 64, dtype=torch.bfloat16)
    grads = normal(EXAMPLES, 16, 32, seed=1, dtype=torch.bfloat16)
    found = _samplers._linear(layer, [inputs], grads)[layer.weight]
    expected = torch.einsum("bti,btj->bij", inputs.double(), grads.double()).flatten(1).norm(dim=1)
    assert found.dtype is torch.float32
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=0)


def test_what_has_no_norm_of_its_own_is_refused() -> None:
    layer = nn.Embedding(7, 3, scale_grad_by_freq=True).double()
    with pytest.raises(NotImplementedError, match="scale_grad_by_freq=True makes the gradient of one example depend"):
        ghost_norms(layer, whole(7, EXAMPLES, 9))
    with pytest.raises(NotImplementedError, match=r"inputs of shape \(3, 5\) must have as many examples"):
        _samplers._linear(nn.Linear(5, 2), [normal(3, 5)], normal(4, 2))


# --- the registry ------------------------------------------------------------------------------------------


def test_unregister_gives_back_what_was_there() -> None:
    opacus.unregister()
    before = dict(Hooks.NORM_SAMPLERS)
    opacus.register()
    opacus.register()
    assert set(Hooks.NORM_SAMPLERS) == set(before) | set(_samplers._SAMPLERS)
    assert Hooks.NORM_SAMPLERS[nn.Linear] is not before[nn.Linear]
    opacus.unregister()
    assert before == Hooks.NORM_SAMPLERS
    opacus.unregister()
    assert before == Hooks.NORM_SAMPLERS


def test_some_types_can_be_registered_alone() -> None:
    opacus.unregister()
    before = dict(Hooks.NORM_SAMPLERS)
    opacus.register(nn.Conv2d)
    assert {k for k, v in Hooks.NORM_SAMPLERS.items() if before.get(k) is not v} == {nn.Conv2d}
    with pytest.raises(TypeError, match=r"layers must be of Linear, .*, got Bilinear"):
        opacus.register(nn.Bilinear)


def test_a_sampler_registered_later_stays() -> None:
    opacus.unregister()
    before = dict(Hooks.NORM_SAMPLERS)
    opacus.register()

    def other(*_: Any) -> Any:
        return {}

    Hooks.NORM_SAMPLERS[nn.Linear] = other
    opacus.unregister()
    try:
        assert before | {nn.Linear: other} == Hooks.NORM_SAMPLERS
    finally:
        Hooks.NORM_SAMPLERS.update(before)


# --- training ----------------------------------------------------------------------------------------------


class Net(nn.Module):
    """Every kind of layer that both ways of Opacus get right."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(11, 6)
        self.conv = nn.Conv1d(6, 8, 3, padding=1)
        self.group = nn.GroupNorm(2, 8)
        self.norm = nn.LayerNorm(8)
        self.hidden = nn.Linear(8, 7)
        self.out = nn.Linear(7, 3)

    def forward(self, tokens: Any) -> Any:
        x = self.group(self.conv(self.table(tokens).transpose(1, 2)))
        return self.out(torch.relu(self.hidden(self.norm(x.transpose(1, 2)))).mean(1))


def net(seed: int = 0) -> Net:
    torch.manual_seed(seed)
    return Net().double()


def trained(way: str, steps: int = 4) -> list[Any]:
    """Parameters after some steps without noise."""
    model, reduction = net(), "mean"
    tokens, labels = whole(11, 16, 5), whole(3, 16)
    kind = GradSampleModule if way == "hooks" else GradSampleModuleFastGradientClipping
    more = {} if way == "hooks" else {"max_grad_norm": 0.3}
    wrapped = kind(model, loss_reduction=reduction, **more)
    optimizer_kind = DPOptimizer if way == "hooks" else DPOptimizerFastGradientClipping
    optimizer = optimizer_kind(torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.5), noise_multiplier=0.0,
                               max_grad_norm=0.3, expected_batch_size=16, loss_reduction=reduction)  # fmt: skip
    criterion = nn.CrossEntropyLoss()
    loss = criterion if way == "hooks" else DPLossFastGradientClipping(wrapped, optimizer, criterion)
    for _ in range(steps):
        optimizer.zero_grad()
        loss(wrapped(tokens), labels).backward()
        optimizer.step()
    return [p.detach().clone() for p in model.parameters()]


def test_training_steps_are_the_same_up_to_rounding() -> None:
    ours = trained("ghost")
    opacus.unregister()
    for way in ("hooks", "ghost"):
        for mine, theirs in zip(ours, trained(way), strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-12)
    assert not torch.equal(ours[0], net().table.weight)


# --- check -------------------------------------------------------------------------------------------------


class Tied(nn.Module):
    """A head that uses the table of an embedding outside it."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(7, 3)
        self.mix = nn.Linear(3, 3)

    def forward(self, tokens: Any) -> Any:
        return F.linear(torch.tanh(self.mix(self.table(tokens))), self.table.weight)


def test_check_passes_what_opacus_sees_and_leaves_the_model_as_it_was() -> None:
    model = net()
    wrapped = GradSampleModuleFastGradientClipping(model)
    tokens, labels = whole(11, 6, 5), whole(3, 6)
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    state = torch.random.get_rng_state()
    opacus.check(wrapped, lambda output: F.cross_entropy(output, labels, reduction="none"), tokens)
    assert torch.equal(state, torch.random.get_rng_state())
    assert all((p.grad == 1).all() and not hasattr(p, "_norm_sample") for p in model.parameters())
    wrapped(tokens).sum().backward()  # hooks are there again
    assert all(p._norm_sample.shape == (6,) for p in model.parameters())


def test_check_names_a_parameter_that_is_used_outside_its_layer() -> None:
    torch.manual_seed(0)
    wrapped = GradSampleModuleFastGradientClipping(Tied().double())
    with pytest.raises(ValueError, match=r"norms are not those of the gradients: table.weight by \d+\.\d% of the norm"):
        opacus.check(wrapped, losses_of, whole(7, EXAMPLES, 5))


def test_check_leaves_norms_whose_step_is_still_to_come() -> None:
    wrapped = GradSampleModuleFastGradientClipping(nn.Linear(4, 2).double())
    inputs = normal(EXAMPLES, 4)
    losses_of(wrapped(inputs)).mean().backward()
    before = [p._norm_sample for p in wrapped.parameters()]
    opacus.check(wrapped, losses_of, 2 * inputs)
    assert all(p._norm_sample is norms for p, norms in zip(wrapped.parameters(), before, strict=True))


@pytest.mark.parametrize(("losses", "examples"), [(lambda y: y.sum(1), 0), (lambda y: y.sum(), 3)])
def test_check_needs_a_loss_for_each_of_some_examples(losses: Any, examples: int) -> None:
    wrapped = GradSampleModuleFastGradientClipping(nn.Linear(4, 2).double())
    with pytest.raises(ValueError, match="losses must give one number for each of some examples"):
        opacus.check(wrapped, losses, normal(examples, 4))


def test_check_refuses_what_opacus_did_not_wrap() -> None:
    with pytest.raises(TypeError, match=r"must be a GradSampleModuleFastGradientClipping .* got Linear"):
        opacus.check(nn.Linear(2, 2), losses_of, normal(3, 2))


# --- reading -----------------------------------------------------------------------------------------------

RECORDS = 24


def run_of(
    way: str, *, every: int = 1, virtual: bool = False, noise: float = 1.0, seed: int = 1, epochs: int = 3
) -> Any:
    """Return the run that was read, and the visits of every record: step and norm by autograd."""
    model = net()
    data = torch.utils.data.TensorDataset(whole(11, RECORDS, 5), whole(3, RECORDS), torch.arange(RECORDS))
    loader = torch.utils.data.DataLoader(data, batch_size=8, generator=torch.Generator().manual_seed(seed))
    torch.manual_seed(seed)
    criterion: Any = nn.CrossEntropyLoss()
    made = PrivacyEngine().make_private(
        module=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
        criterion=criterion,
        data_loader=loader,
        noise_multiplier=noise,
        max_grad_norm=0.5,
        grad_sample_mode=way,
    )
    wrapped, optimizer, *rest = made
    criterion, loader = (rest[0], rest[1]) if len(rest) == 2 else (criterion, rest[0])
    reader = opacus.NormReader(optimizer, n_records=RECORDS, sampling_probability=loader.sample_rate, every=every)
    visits: list[tuple[int, int, float]] = []
    step = 0

    def epoch(batches: Any) -> None:
        nonlocal step
        for tokens, labels, rows in batches:
            plain = copy_of(model)
            for i, row in enumerate(rows.tolist()):
                label = labels[i : i + 1]
                norms = exact_norms(plain, tokens[i : i + 1], lambda o, label=label: F.cross_entropy(o, label))
                visits.append((step, row, float(torch.stack(list(norms.values())).norm())))
            optimizer.zero_grad()
            criterion(wrapped(tokens), labels).backward()
            reader.read(rows)
            optimizer.step()
            step = reader._step

    for _ in range(epochs):
        if virtual:
            with BatchMemoryManager(data_loader=loader, max_physical_batch_size=3, optimizer=optimizer) as batches:
                epoch(batches)
        else:
            epoch(loader)
    return reader.finish(), visits, optimizer


def copy_of(model: Any) -> Net:
    """Return the model without what Opacus attached."""
    plain = net()
    plain.load_state_dict({name: value.clone() for name, value in model.state_dict().items()})
    return plain


@pytest.mark.parametrize(("way", "every", "virtual"), [("hooks", 1, False), ("ghost", 4, False), ("hooks", 2, True)])
def test_norms_read_are_exact_and_lie_where_they_were_taken(way: str, every: int, virtual: bool) -> None:
    run, visits, optimizer = run_of(way, every=every, virtual=virtual)
    assert run.n_steps == 9
    assert run.grad_norms.shape == run.steps.shape == (RECORDS, -(-9 // every))
    assert (run.l2_bound, run.noise_multiplier) == (0.5, 1.0)
    assert run.sampling_probability == pytest.approx(1 / 3)
    for row in range(RECORDS):
        own = [(step, norm) for step, who, norm in visits if who == row]
        if not own:
            assert row in run.never_visited
            assert (run.grad_norms[row] == run.l2_bound).all()
            continue
        for window in range(run.grad_norms.shape[1]):
            end = every * (max(window, own[0][0] // every) + 1)  # before the first visit: the first window with one
            before = [visit for visit in own if visit[0] < end]
            assert run.steps[row, window] == before[-1][0]
            assert run.grad_norms[row, window] == pytest.approx(before[-1][1], rel=1e-5)
    assert optimizer.step_hook is not None, "the accountant's hook is gone"
    assert run.privacy_losses(order=2.0).shape == (RECORDS,)


def test_losses_are_those_of_noise_over_norms() -> None:
    run, _, _ = run_of("hooks", noise=0.7)
    cost = rdp.StepCost(order=3.0, sampling_probability=run.sampling_probability)
    weights = rdp.quadrature_weights(run.steps, n_steps=run.n_steps)
    expected = (cost(run.clipped_norms, noise_per_norm=0.7 * 0.5) * weights).sum(axis=1)
    np.testing.assert_allclose(run.privacy_losses(order=3.0), expected, rtol=1e-9)


def test_composition_takes_the_clipping_bound_as_given() -> None:
    runs = [run_of("hooks", seed=seed, epochs=1)[0] for seed in (1, 2)]
    found = opacus.composition_rdp(runs, order=1.5)
    assert found.bound_source == "given"
    assert found.n_runs == 2
    assert found.rdp.shape == (RECORDS,)
    expected = rdp.composition_rdp(
        np.stack([run.clipped_norms for run in runs]),
        order=1.5,
        noise_std=0.05,
        step_size=0.1,  # the same noise beside a norm, however it is scaled
        batch_size=1.0,
        sampling_probability=runs[0].sampling_probability,
        l2_bound=0.5,
        steps=np.stack([run.steps for run in runs]),
        n_steps=3,
    )
    np.testing.assert_allclose(found.rdp, expected.rdp, rtol=1e-9)
    np.testing.assert_array_equal(opacus.composition_rdp(runs[0], order=1.5).n_runs, 1)
    with pytest.raises(ValueError, match="runs must share l2_bound, noise_multiplier"):
        opacus.composition_rdp([runs[0], run_of("hooks", noise=2.0, epochs=1)[0]], order=1.5)
    with pytest.raises(ValueError, match="at least one run"):
        opacus.composition_rdp([], order=1.5)


def small() -> tuple[Any, Any, Any]:
    model = GradSampleModule(nn.Linear(3, 1).double())
    optimizer = DPOptimizer(
        torch.optim.SGD(model.parameters(), lr=0.1), noise_multiplier=1.0, max_grad_norm=1.0, expected_batch_size=4
    )
    reader = opacus.NormReader(optimizer, n_records=9, sampling_probability=0.5)
    return model, optimizer, reader


def backward(model: Any) -> None:
    model(normal(4, 3)).square().mean().backward()


@pytest.mark.parametrize(
    ("rows", "error", "text"),
    [
        ([0, 1, 2], ValueError, r"rows must have shape \(4,\), one per example of the batch, got \(3,\)"),
        ([0, 1, 2, 9], ValueError, r"rows must be within \[0, 9\), got 9"),
        ([0, 1, -1, 2], ValueError, r"rows must be within \[0, 9\), got -1"),
        ([0, 1, 1, 2], ValueError, "rows must not repeat within a step, got 1 twice"),
        ([0.0, 1.0, 2.0, 3.0], TypeError, "rows must hold integers"),
    ],
)
def test_rows_that_cannot_be_are_refused(rows: list[Any], error: type[Exception], text: str) -> None:
    model, _, reader = small()
    backward(model)
    with pytest.raises(error, match=text):
        reader.read(rows)


def test_norms_are_read_once_after_each_backward() -> None:
    model, optimizer, reader = small()
    with pytest.raises(RuntimeError, match="read must be called once after every backward"):
        reader.read([0, 1, 2, 3])
    backward(model)
    reader.read([0, 1, 2, 3])
    with pytest.raises(RuntimeError, match="read must be called once after every backward"):
        reader.read([4, 5, 6, 7])
    with pytest.raises(RuntimeError, match="after a step of the optimizer for all batches read"):
        reader.finish()
    optimizer.step()
    run = reader.finish()
    assert run.never_visited.tolist() == [4, 5, 6, 7, 8]
    assert (run.grad_norms[4:] == 1.0).all(), "a record of which nothing is known counts with the bound"
    assert (run.grad_norms[:4] > 0.0).all()
    assert optimizer.step_hook is None
    with pytest.raises(RuntimeError, match="finish must be called once"):
        reader.finish()
    with pytest.raises(RuntimeError, match="read must be called before finish"):
        reader.read([0, 1, 2, 3])


def test_the_hook_that_was_there_still_runs_and_comes_back() -> None:
    model, optimizer, _ = small()
    steps: list[int] = []
    optimizer.attach_step_hook(lambda given: steps.append(id(given)))
    own = optimizer.step_hook
    reader = opacus.NormReader(optimizer, n_records=9, sampling_probability=0.5)
    backward(model)
    reader.read([0, 1, 2, 3])
    optimizer.step()
    assert steps == [id(optimizer)]
    reader.finish()
    assert optimizer.step_hook is own


def test_a_norm_that_is_not_finite_is_refused() -> None:
    model, _, reader = small()
    (model(normal(4, 3)) * float("inf")).mean().backward()
    with pytest.raises(ValueError, match=r"gradient norms must be finite, got .* in step 0"):
        reader.read([0, 1, 2, 3])


def test_settings_that_change_on_the_way_are_refused() -> None:
    model, optimizer, reader = small()
    backward(model)
    reader.read([0, 1, 2, 3])
    optimizer.noise_multiplier = 2.0
    with pytest.raises(RuntimeError, match=r"must stay as they were, \(1.0, 1.0\), got \(1.0, 2.0\)"):
        optimizer.step()


def test_an_optimizer_of_torch_is_refused() -> None:
    with pytest.raises(TypeError, match="optimizer must be a DPOptimizer of Opacus, got SGD"):
        opacus.NormReader(torch.optim.SGD([nn.Parameter(torch.ones(1))]), n_records=1, sampling_probability=0.5)
