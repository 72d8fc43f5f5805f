"""GradNorms(check=...): norms of a few examples held against autograd on each alone."""

from collections import OrderedDict
from typing import NamedTuple

import pytest

torch = pytest.importorskip("torch", reason="the PyTorch backend needs expunge[torch]", exc_type=ImportError)

from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402, N812
from torch.utils.checkpoint import checkpoint  # noqa: E402

from expunge.torch import GradNormMismatchError, GradNorms, UnsupportedLayerError  # noqa: E402
from torch_norms import Calls, block_norms, loss_of, parameter  # noqa: E402


class Two(NamedTuple):
    scores: torch.Tensor
    features: torch.Tensor


def through_numbers(h):
    """A mixture of examples that no torch function shows."""
    return h * torch.tensor(h.detach().numpy().mean())


@pytest.mark.parametrize("check", [True, 1, 5, 50])
@pytest.mark.parametrize("param_grads", [True, False])
def test_examples_that_interact_where_no_rule_sees_it_are_found(check, param_grads):
    torch.manual_seed(0)
    model = Calls(lambda m, x: m.b(through_numbers(m.a(x))), a=nn.Linear(6, 4), b=nn.Linear(4, 2)).double()
    x = torch.randn(5, 6).double()
    assert (block_norms(model, x, param_grads=param_grads) > 0).all()
    with pytest.raises(GradNormMismatchError, match=r"^a\.weight: the gradient of example \d has norm .* alone"):
        block_norms(model, x, param_grads=param_grads, check=check)


RIGHT = {
    "layers": Calls(lambda m, x: m.b(F.relu(m.a(x), inplace=True)), a=nn.Linear(6, 4), b=nn.Linear(4, 2)),
    "outputs of outputs": Calls(lambda m, x: (lambda h: (m.b(h), h))(m.a(x)), a=nn.Linear(6, 4), b=nn.Linear(4, 2)),
    "a named tuple": Calls(lambda m, x: (lambda h: Two(m.b(h), h))(m.a(x)), a=nn.Linear(6, 4), b=nn.Linear(4, 2)),
    "its own loss": Calls(lambda m, x: m.a(x).square().sum(), a=nn.Linear(6, 4)),
    "batch norm": nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4)).eval(),
    "positions": Calls(lambda m, x: m.a(x).transpose(0, 1), a=nn.Linear(6, 4)),
    "raw parameters": Calls(lambda m, x: torch.where(x > 0, x, m.w).sum(1), w=parameter(6)),
}


def loss_of_all(output):
    parts = output if isinstance(output, tuple) else (output,)
    return parts[0] if parts[0].ndim == 0 else sum(part.sin().sum() for part in parts)


@pytest.mark.parametrize("name", RIGHT)
@pytest.mark.parametrize("batch", [1, 4])
def test_right_norms_pass_unchanged(name, batch):
    torch.manual_seed(1)
    model, x = RIGHT[name].double(), torch.randn(batch, 6).double()
    buffers = [b.clone() for b in model.buffers()]
    expected = block_norms(model, x, loss_of_all)
    for param_grads in (True, False):
        model.zero_grad()
        with GradNorms(model, param_grads=param_grads, check=batch) as g:
            loss_of_all(model(x)).backward()
            before = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
            torch.testing.assert_close(torch.as_tensor(expected), g.norms(), rtol=1e-12, atol=0)
            g.norms(per_layer=True)
        for p, grad in zip(model.parameters(), before, strict=True):
            assert (p.grad is None and grad is None) or torch.equal(p.grad, grad)
    assert all(torch.equal(a, b) for a, b in zip(buffers, model.buffers(), strict=True))
    assert not model._forward_hooks
    assert not model._forward_pre_hooks


@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("inside", [True, False])
def test_either_reduction_in_the_model_and_outside(reduction, inside):
    torch.manual_seed(2)
    layer = nn.Linear(6, 3)

    def loss(output):
        return F.cross_entropy(output, torch.zeros(len(output), dtype=torch.long), reduction=reduction)

    model = Calls((lambda m, x: loss(m.a(x))) if inside else (lambda m, x: m.a(x)), a=layer)
    x = torch.randn(7, 6)
    found = block_norms(model, x, (lambda y: y) if inside else loss, check=7, loss_reduction=reduction)
    expected = block_norms(layer, x, lambda y: F.cross_entropy(y, torch.zeros(7, dtype=torch.long), reduction="sum"))
    torch.testing.assert_close(torch.as_tensor(found), torch.as_tensor(expected), rtol=1e-5, atol=0)


def test_containers_keep_their_kind_and_inputs_may_be_named():
    class Named(OrderedDict):
        pass

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(6, 4)

        def forward(self, *, batch, scale):
            return Named(out=[self.a(batch["x"]) * scale], extra={"n": 3})

    model, x = Model(), torch.randn(5, 6)
    with GradNorms(model, check=5) as g:
        output = model(batch={"x": x}, scale=torch.tensor(2.0))
        assert type(output) is Named
        assert output["extra"] == {"n": 3}
        output["out"][0].square().sum().backward()
        assert (g.norms() > 0).all()


def test_what_one_example_cannot_repeat_is_refused():
    x = torch.randn(5, 6)
    with pytest.raises(UnsupportedLayerError, match=r"check cannot repeat the random numbers .* eval"):
        block_norms(nn.Sequential(nn.Linear(6, 4), nn.Dropout(0.5)), x, check=True)
    assert (block_norms(nn.Sequential(nn.Linear(6, 4), nn.Dropout(0.5)).eval(), x, check=True) > 0).all()
    model = nn.Sequential(nn.Linear(6, 4))
    with GradNorms(model, check=True) as g:
        loss_of(model[0](x)).backward()
        with pytest.raises(UnsupportedLayerError):
            g.norms()


def test_the_number_of_examples_is_checked():
    for check, error in ((-1, ValueError), (1.5, TypeError), ("yes", TypeError)):
        with pytest.raises(error, match="check must be"):
            GradNorms(nn.Linear(2, 2), check=check)


class Tagger(nn.Module):
    """A model that computes its own loss: a mean over the tokens of the batch that have a label."""

    def __init__(self, wrong=False):
        super().__init__()
        self.a, self.wrong = nn.Linear(6, 3), wrong

    def forward(self, x, labels):
        scores = self.a(through_numbers(x) if self.wrong else x)
        return {"loss": F.cross_entropy(scores.flatten(0, 1), labels.flatten()), "scores": scores}


LABELS = torch.tensor([[0, 1, 2, 0], [1, -100, -100, 2], [-100, -100, -100, -100], [2, -100, -100, -100]])


def tagged(model, x, counts, **settings):
    with GradNorms(model, loss_reduction="token-mean", counts=counts, **settings) as g:
        model(x, LABELS)["loss"].backward()
        return g.norms()


def test_a_mean_over_tokens_that_the_model_computes_is_checked():
    torch.manual_seed(3)
    model, x, counts = Tagger().double(), torch.randn(4, 4, 6).double(), (LABELS != -100).sum(1)
    expected = tagged(model, x, counts)
    assert torch.equal(tagged(model, x, counts, check=4), expected)
    for i in (0, 1, 3):
        grads = torch.autograd.grad(model(x[i : i + 1], LABELS[i : i + 1])["loss"], list(model.parameters()))
        norm = sum(g.square().sum() for g in grads).sqrt()
        torch.testing.assert_close(expected[i], norm, rtol=1e-12, atol=0.0)
    assert expected[2] == 0
    with pytest.raises(GradNormMismatchError, match=r"^a\.weight: the gradient of example \d"):
        tagged(Tagger(wrong=True).double(), x, counts, check=4)
    with pytest.raises(GradNormMismatchError, match=r"^a\.weight: the gradient of example \d"):
        tagged(model, x, torch.tensor([3, 2, 0, 1]), check=4)
    with pytest.raises(ValueError, match="counts must have one entry for each of the 4 examples"):
        tagged(model, x, counts[:3], check=4)


def test_a_loss_in_another_precision_is_checked_to_its_digits():
    torch.manual_seed(4)
    x = torch.randn(3, 6).double()
    model = Calls(lambda m, x: (m.a(x).float() / 3).square().mean(1).sum(), a=nn.Linear(6, 4)).double()
    block_norms(model, x, lambda y: y, check=3)


def test_checkpoints_with_reentry_cannot_be_repeated():
    model = Calls(lambda m, x: m.b(checkpoint(m.a, x * m.s, use_reentrant=True)), a=nn.Linear(4, 4), b=nn.Linear(4, 2))
    model.s = parameter(4)
    model.double()
    with pytest.raises(UnsupportedLayerError, match="use_reentrant=True"), GradNorms(model, check=True) as g:  # noqa: PT012
        loss_of(model(torch.randn(3, 4).double())).backward()
        g.norms()
