"""Recurrent layers: torch's outputs and gradients, and every example's own norm, whatever the loss reads of them."""

import pytest

torch = pytest.importorskip("torch", reason="the PyTorch backend needs expunge[torch]", exc_type=ImportError)

from torch import nn  # noqa: E402

from expunge.torch import GradNorms, UnsupportedLayerError  # noqa: E402
from expunge.torch._sequences_fused import Fused  # noqa: E402
from torch_norms import Calls, assert_exact, block_norms, single_norms  # noqa: E402

KINDS = {
    "lstm": nn.LSTM,
    "gru": nn.GRU,
    "rnn": nn.RNN,
    "rnn of relu": lambda *sizes, **settings: nn.RNN(*sizes, nonlinearity="relu", **settings),
}
SETTINGS = {
    "plain": {},
    "two layers, both ways": {"num_layers": 2, "bidirectional": True},
    "two layers without biases": {"num_layers": 2, "bias": False},
}


def states(found):
    """The last states of an LSTM (h and c), or of another layer, examples in front."""
    last = found[1] if isinstance(found[1], tuple) else (found[1],)
    return [state.transpose(0, 1) for state in last]


READ = {
    "all outputs": lambda found: found[0].square(),
    "the last output": lambda found: found[0][:, -1],
    "the last state": lambda found: states(found)[0],
    "the last cells": lambda found: states(found)[-1],
    "outputs and states": lambda found: found[0].mean(1) * 3 + states(found)[0].sum((1, 2))[:, None]
    - states(found)[-1].mean((1, 2))[:, None],
    "outputs written into": lambda found: found[0].mul_(2).add_(1.0),
}  # fmt: skip


def layer(kind, **settings):
    torch.manual_seed(1)
    return KINDS[kind](5, 4, batch_first=True, **settings)


@pytest.fixture(params=["by one kernel", "a step at a time"])
def way(request, monkeypatch):
    """Layers as they run on the CPU, and as they run on devices."""
    if request.param == "a step at a time":
        monkeypatch.setattr(Fused, "takes", staticmethod(lambda tensors: False))
    return request.param


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("read", READ)
@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("kind", KINDS)
def test_norms_of_sequences_whatever_the_loss_reads(kind, settings, read):
    model = Calls(lambda m, x: READ[read](m.r(m.a(x))), r=layer(kind, **SETTINGS[settings]), a=nn.Linear(5, 5)).double()
    assert_exact(model, torch.randn(3, 6, 5))


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("batch", [1, 2, 4])
@pytest.mark.parametrize("kind", KINDS)
def test_norms_of_sequences_where_the_batch_is_as_long_as_others(kind, batch):
    assert_exact(Calls(lambda m, x: m.r(x)[0], r=layer(kind)), torch.randn(batch, 4, 5))


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("kind", KINDS)
def test_outputs_are_laid_out_as_torch_does(kind):
    for batch_first in (True, False):
        made = layer(kind).double()
        made.batch_first = batch_first
        x = torch.randn(2, 3, 5, dtype=torch.float64).transpose(0, 0 if batch_first else 1)
        plain = made(x)
        outer = Calls(lambda m, x, swap=not batch_first: m.r(x.transpose(0, 1) if swap else x), r=made)
        with GradNorms(outer):
            found = outer(x.transpose(0, 1) if not batch_first else x)
        for one, other in zip([found[0], *states(found)], [plain[0], *states(plain)], strict=True):
            torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-14)
            assert one.is_contiguous() == other.is_contiguous()


@pytest.mark.usefixtures("way")
def test_states_of_examples_get_their_gradients():
    def read(m, x):
        first = torch.stack([m.a(x[:, 0]), m.a(x[:, 1])])
        return m.r(x, (first, first * 2))[0]

    assert_exact(Calls(read, r=layer("lstm", num_layers=2), a=nn.Linear(5, 4)), torch.randn(3, 6, 5))


@pytest.mark.usefixtures("way")
def test_frozen_weights_of_one_layer_are_left_out():
    made = layer("lstm", num_layers=2)
    for name, weight in made.named_parameters():
        weight.requires_grad_(name not in ("weight_ih_l0", "bias_hh_l0", "weight_hh_l1", "bias_ih_l1", "bias_hh_l1"))
    assert_exact(Calls(lambda m, x: m.r(x)[0], r=made), torch.randn(3, 6, 5))


@pytest.mark.parametrize("kind", KINDS)
def test_one_weight_for_both_parts_of_the_gates(kind):
    torch.manual_seed(1)
    made = KINDS[kind](4, 4, batch_first=True)
    made.weight_hh_l0 = made.weight_ih_l0
    assert_exact(Calls(lambda m, x: m.r(x)[0], r=made), torch.randn(3, 6, 4))


@pytest.mark.parametrize("kind", KINDS)
def test_norms_of_wide_layers_and_many_sequences(kind):
    """Several tiles of sequences, and units that fill no whole number of vectors."""
    torch.manual_seed(1)
    made = KINDS[kind](3, 37, batch_first=True, bidirectional=True)
    assert_exact(Calls(lambda m, x: m.r(x)[0].square(), r=made), torch.randn(35, 4, 3))


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("kind", KINDS)
def test_what_lies_scattered_in_memory(kind):
    """Inputs, first states and gradients of outputs that are no contiguous tensors, time in front."""
    made = layer(kind)
    made.batch_first = False

    def read(m, x):
        first = m.a(x[:, 0]).repeat(1, 2)[None, :, ::2]
        found = m.r(m.i(x)[:, ::2].transpose(0, 1), (first, first * 2) if kind == "lstm" else first)[0]
        return found.transpose(0, 1).flip(2)

    assert_exact(Calls(read, r=made, a=nn.Linear(5, 4), i=nn.Linear(5, 5)), torch.randn(3, 6, 5))


def test_a_subclass_of_tensors_goes_to_no_kernel():
    class Marked(torch.Tensor):
        pass

    assert Fused.takes([torch.zeros(2), nn.Parameter(torch.zeros(2))])
    assert not Fused.takes([torch.zeros(2), torch.zeros(2).as_subclass(Marked)])
    assert not Fused.takes([torch.zeros(2, device="meta")])


def test_a_sequence_of_two_calls_of_one_layer():
    assert_exact(Calls(lambda m, x: m.r(m.a(m.r(x)[0]))[0], r=layer("gru"), a=nn.Linear(4, 5)), torch.randn(3, 6, 5))


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("batch", [1, 2, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_norms_of_several_sequences_of_each_example(kind, batch):
    model = Calls(lambda m, x: m.r(m.a(x).flatten(0, 1))[0].unflatten(0, (-1, 2)), r=layer(kind), a=nn.Linear(5, 5))
    assert_exact(model, torch.randn(batch, 2, 4, 5))


@pytest.mark.usefixtures("way")
def test_a_sequence_checkpointed():
    def read(m, x):
        return torch.utils.checkpoint.checkpoint(lambda t: m.r(t)[0], m.a(x), use_reentrant=False)

    assert_exact(Calls(read, r=layer("lstm"), a=nn.Linear(5, 5)), torch.randn(3, 6, 5))


@pytest.mark.usefixtures("way")
def test_a_pass_through_a_sequence_twice_is_refused():
    model = Calls(lambda m, x: m.r(x)[0], r=layer("lstm")).double()
    with GradNorms(model) as g:
        loss = model(torch.randn(3, 6, 5, dtype=torch.float64)).sum()
        loss.backward(retain_graph=True)
        loss.backward()
        with pytest.raises(UnsupportedLayerError, match=r"weight_ih_l0: .*twice"):
            g.norms()


@pytest.mark.usefixtures("way")
def test_gradients_taken_beside_the_loss_count_for_nothing():
    model = Calls(lambda m, x: m.r(x)[0], r=layer("lstm")).double()
    x = torch.randn(3, 6, 5, dtype=torch.float64)
    expected = single_norms(model, x, lambda output: output.sum())
    with GradNorms(model, param_grads=False) as g:
        x.requires_grad_()
        out = model(x)
        torch.autograd.grad(out.square().sum(), x, retain_graph=True)
        out.sum().backward()
        torch.testing.assert_close(g.norms(), torch.from_numpy(expected), rtol=1e-10, atol=0)


def test_float32_is_exact_to_its_precision():
    model = Calls(lambda m, x: m.r(x)[0].square(), r=layer("lstm", num_layers=2))
    x = torch.randn(3, 6, 5)
    found = block_norms(model, x, param_grads=False)
    expected = single_norms(model.double(), x.double())
    torch.testing.assert_close(torch.from_numpy(found).double(), torch.from_numpy(expected), rtol=2e-5, atol=0)
