"""GradNorms where it takes a short way: layers settled together, uses that note themselves, blocks kept open."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the PyTorch backend needs expunge[torch]", exc_type=ImportError)

from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402, N812

from expunge.torch import GradNorms, UnsupportedLayerError, _small_layers, train  # noqa: E402
from expunge.torch._gradient_norms import KeptBlock  # noqa: E402
from torch_norms import Calls, assert_exact, block_norms, loss_of, single_norms  # noqa: E402


def network():
    torch.manual_seed(5)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 7), nn.Tanh(), nn.Linear(7, 3)).double()


def step_of(model, x, look=lambda: None):
    """Take a step by hand, and a look after its backward pass."""
    model.zero_grad()
    loss_of(model(x)).backward()
    look()
    with torch.no_grad():
        for p in model.parameters():
            p.sub_(0.1 * p.grad)


def hooks_of(model):
    """Everything that a block puts on a model."""
    return [len(p._backward_hooks or ()) for p in model.parameters()], len(model._forward_pre_hooks)


# --- layers settled together ---------------------------------------------------------------------------


@pytest.mark.parametrize(("small", "most"), [(0, 1 << 21), (1 << 18, 0), (1 << 18, 150), (60, 1 << 21)])
@pytest.mark.parametrize("shape", [(9, 6), (4, 5, 6), (3, 2, 2, 6)])
def test_norms_are_the_same_however_many_layers_wait_for_others(small, most, shape, monkeypatch):
    model, x = network(), torch.randn(*shape, dtype=torch.float64)
    expected = block_norms(model, x)
    monkeypatch.setattr(_small_layers, "_SMALL", small)
    monkeypatch.setattr(_small_layers, "_MOST", most)
    for param_grads in (True, False):
        np.testing.assert_allclose(block_norms(model, x, param_grads=param_grads), expected, rtol=1e-14)
    np.testing.assert_allclose(expected, single_norms(model, x, loss_of), rtol=1e-12)


def test_norms_by_layer_are_those_of_layers_alone():
    model, x = network(), torch.randn(5, 6, dtype=torch.float64)
    with GradNorms(model) as g:
        loss_of(model(x)).backward()
        norms, layers = g.norms(), g.norms(per_layer=True)
    assert list(layers) == [name for name, _ in model.named_parameters()]
    for i in range(5):
        model.zero_grad()
        loss_of(model(x[i : i + 1])).backward()
        for name, p in model.named_parameters():
            assert float(layers[name][i]) == pytest.approx(float(p.grad.norm()), rel=1e-12)
    torch.testing.assert_close(sum(v.square() for v in layers.values()).sqrt(), norms)


def test_a_gradient_that_is_written_to_while_its_layer_waits_is_refused():
    torch.manual_seed(0)
    model = Calls(lambda m, x: m.a(x) + m.b(x), a=nn.Linear(4, 3), b=nn.Linear(4, 3)).double()
    first = model.a.forward

    def watched(x):
        output = first(x)
        output.grad_fn.register_prehook(lambda grads: (grads[0].mul_(2.0),))  # b's gradient is the same tensor
        return output

    model.a.forward = watched
    with pytest.raises(UnsupportedLayerError, match=r"^b\.weight: its input, or a gradient, was modified in place"):
        block_norms(model, torch.randn(5, 4, dtype=torch.float64))


def test_inputs_may_be_written_to_after_the_backward_pass():
    model, x = network(), torch.randn(5, 6, dtype=torch.float64)
    expected = block_norms(model, x)
    with GradNorms(model) as g:
        loss_of(model(x)).backward()
        x.zero_()
        assert np.array_equal(g.norms().numpy(), expected)


LAYERS_OF_NEGATED = {
    "linear": lambda: nn.Linear(6, 3),
    "convolution": lambda: nn.Conv1d(4, 3, 2),
    "normalisation": lambda: nn.LayerNorm(6),
    "lstm": lambda: nn.LSTM(6, 3, batch_first=True),
    "gru": lambda: nn.GRU(6, 3, batch_first=True),
    "rnn": lambda: nn.RNN(6, 3, batch_first=True),
}


def negated(*shape):
    """Numbers whose memory holds their negative, as the imaginary part of a conjugate does: torch keeps the sign."""
    found = torch._neg_view(torch.randn(*shape, dtype=torch.float64))
    assert found.is_neg()
    return found


@pytest.mark.parametrize("layer", LAYERS_OF_NEGATED)
def test_inputs_whose_memory_holds_their_negative(layer):
    def call(m, x):
        found = m.a(x)
        return found[0] if isinstance(found, tuple) else found

    torch.manual_seed(3)
    assert_exact(Calls(call, a=LAYERS_OF_NEGATED[layer]()), negated(5, 4, 6))


@pytest.mark.parametrize("layer", ["lstm", "gru", "rnn"])
def test_states_whose_memory_holds_their_negative(layer):
    def started(m, x):
        states = x[None, :, :3]
        return m.a(m.b(x)[:, None], (states, states) if layer == "lstm" else states)[0]

    torch.manual_seed(4)
    assert_exact(Calls(started, a=LAYERS_OF_NEGATED[layer](), b=nn.Linear(3, 6)), negated(5, 3))


# --- uses that note what goes through themselves -------------------------------------------------------------


class Twice(torch.autograd.Function):
    """Uses a weight where no torch function shows it."""

    @staticmethod
    def forward(ctx, x, weight):
        ctx.save_for_backward(x, weight)
        return x @ weight.t()

    @staticmethod
    def backward(ctx, grad):
        x, weight = ctx.saved_tensors
        return grad @ weight, grad.t() @ x


@pytest.mark.parametrize("hidden_first", [True, False])
@pytest.mark.parametrize("batch", [1, 5])
def test_a_layers_weight_that_is_used_out_of_sight_too_is_refused(hidden_first, batch):
    def both(m, x):
        if hidden_first:
            return Twice.apply(x, m.a.weight) + m.a(x)
        return m.a(x) + Twice.apply(x, m.a.weight)

    model = Calls(both, a=nn.Linear(4, 3)).double()
    with pytest.raises(UnsupportedLayerError, match=r"^a\.weight: "):
        block_norms(model, torch.randn(batch, 4, dtype=torch.float64), lambda y: y.sum())


OTHER_USES = {
    "the layer again": lambda m, x: m.a(m.a(x).tanh()),
    "a product": lambda m, x: m.a(x) + x @ m.a.weight.t(),
    "a product before": lambda m, x: x @ m.a.weight.t() + m.a(x),
    "its bias added": lambda m, x: m.a(x) * 2.0 + m.a.bias,
    "its weight without bias": lambda m, x: m.a(x) + F.linear(x, m.a.weight).cos(),
    "under a checkpoint": lambda m, x: torch.utils.checkpoint.checkpoint(m.a, x, use_reentrant=False) + m.a(x).sin(),
}


@pytest.mark.parametrize("use", OTHER_USES)
@pytest.mark.parametrize("shape", [(5, 4), (3, 2, 4)])
def test_a_layer_and_another_use_of_its_parameters_add_up(use, shape):
    torch.manual_seed(1)
    assert_exact(Calls(OTHER_USES[use], a=nn.Linear(4, 4)), torch.randn(*shape))


def test_layers_under_autocast_whose_parameters_are_cast_first():
    torch.manual_seed(2)
    model, x = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 8)), torch.randn(5, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = block_norms(model, x, lambda y: y.float().sin().sum())
        expected = single_norms(model, x, lambda y: y.float().sin().sum())
    np.testing.assert_allclose(found, expected, rtol=0.02)


def test_parameters_may_take_a_step_between_passes_of_one_block():
    model, alone = network(), network()
    batches, expected = [torch.randn(4, 6, dtype=torch.float64) for _ in range(3)], []
    for x in batches:
        expected.append(single_norms(alone, x, loss_of))
        step_of(alone, x)
    with GradNorms(model) as g:
        for x, norms in zip(batches, expected, strict=True):
            step_of(model, x, lambda norms=norms: np.testing.assert_allclose(g.norms().numpy(), norms, rtol=1e-12))


def test_a_view_of_a_parameter_frozen_in_the_block_is_refused():
    model = Calls(lambda m, x: x @ m.w.t(), a=nn.Linear(4, 3)).double()
    with GradNorms(model):
        model.w = model.a.weight.view(3, 4)
        model.a.weight.requires_grad_(False)
        with pytest.raises(UnsupportedLayerError, match=r"requires_grad_\(False\) of the parameter"):
            model(torch.randn(5, 4, dtype=torch.float64))


# --- blocks kept open --------------------------------------------------------------------------------------


def test_a_kept_block_gives_the_norms_of_blocks_of_their_own():
    model, alone = network(), network()
    kept = KeptBlock(model)
    for size in (4, 1, 6):
        x = torch.randn(size, 6, dtype=torch.float64)
        alone.zero_grad()
        expected = block_norms(alone, x)
        plain = [p.grad for p in alone.parameters()]
        with kept as g:
            loss_of(model(x)).backward()
            found = g.norms()
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-12)
        assert all(torch.equal(p.grad, grad) for p, grad in zip(model.parameters(), plain, strict=True))
        # Nothing is followed in between: not even what a block refuses.
        model.zero_grad()
        (model(torch.randn(3, 6, dtype=torch.float64)).sum(0).softmax(0)[0] + sum(p.sum() for p in model.parameters())
         ).backward()  # fmt: skip
        model.zero_grad()
    kept.close()
    assert hooks_of(model) == ([0] * 6, 0)
    kept.close()


def test_a_kept_block_is_left_where_something_is_raised():
    model = network()
    kept = KeptBlock(model)
    with pytest.raises(ZeroDivisionError), kept:
        raise ZeroDivisionError
    assert hooks_of(model) == ([0] * 6, 0)
    with kept as g:
        loss_of(model(torch.randn(2, 6, dtype=torch.float64))).backward()
        assert len(g.norms()) == 2
    kept.close()


@pytest.mark.parametrize("collect", ["batch", "checkpoint"])
def test_training_leaves_no_hooks(collect):
    x, y = torch.randn(20, 6, dtype=torch.float64), torch.arange(20) % 3
    model = network()
    settings = {"step_size": 0.1, "batch_size": 5, "n_steps": 12, "n_checkpoints": 3, "progress": False}
    train(model, (x, y), collect=collect, **settings)
    assert hooks_of(model) == ([0] * 6, 0)

    def breaks(output, target, seen=[]):  # noqa: B006  a count of its own
        seen.append(1)
        if len(seen) > 4:
            raise ZeroDivisionError
        return F.cross_entropy(output, target, reduction="none")

    with pytest.raises(ZeroDivisionError):
        train(model, (x, y), collect=collect, loss=breaks, **settings)
    assert hooks_of(model) == ([0] * 6, 0)
