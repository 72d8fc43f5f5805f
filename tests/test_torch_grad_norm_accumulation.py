"""Several backward passes in one block: the norms of each are its own examples', or it is refused."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402, N812
from torch.nn.utils import parametrizations  # noqa: E402
from torch.utils.checkpoint import checkpoint  # noqa: E402

from expunge.torch import GradNormMismatchError, GradNorms, UnsupportedLayerError  # noqa: E402
from torch_norms import Calls, loss_of, single_norms  # noqa: E402


def mlp():
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(inplace=True), nn.Linear(8, 8), nn.LayerNorm(8), nn.Linear(8, 3))


def conv():
    return nn.Sequential(nn.Unflatten(1, (1, 6)), nn.Conv1d(1, 4, 3, padding=1), nn.Tanh(), nn.Flatten(), mlp_of(24))


def mlp_of(width):
    return nn.Sequential(nn.Linear(width, 5), nn.GELU(), nn.Linear(5, 3))


def shared():
    return Calls(lambda m, x: m.out(torch.tanh(m.a(torch.tanh(m.a(x))))), a=nn.Linear(6, 6), out=nn.Linear(6, 3))


def tied():
    def forward(m, x):
        tokens = (x * 3).long().abs() % 7
        return m.scale * F.linear(m.table(tokens).tanh(), m.table.weight)

    return Calls(forward, table=nn.Embedding(7, 4), scale=nn.Parameter(torch.ones(7)))


def derived():
    return nn.Sequential(parametrizations.weight_norm(nn.Linear(6, 8)), nn.Tanh(), nn.Linear(8, 3))


def recurrent():
    return Calls(
        lambda m, x: m.out(m.lstm(x[:, :, None])[0][:, -1]), lstm=nn.LSTM(1, 4, batch_first=True), out=mlp_of(4)
    )


def replayed():
    return Calls(lambda m, x: m.out(F.bilinear(x, x, m.w)), w=nn.Parameter(torch.randn(3, 6, 6)), out=nn.Linear(3, 3))


def recomputed():
    return Calls(lambda m, x: m.out(checkpoint(m.a, x, use_reentrant=False)), a=mlp_of(6), out=nn.Linear(3, 2))


MODELS = [mlp, conv, shared, tied, derived, recurrent, replayed, recomputed]


def batches(*sizes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(size, 6, dtype=torch.float64, generator=generator) for size in sizes]


def built(make, seed=0):
    torch.manual_seed(seed)
    return make().double()


@pytest.mark.parametrize("sizes", [(3, 5, 3), (1, 4, 1), (2, 2), (4, 0, 2)], ids=str)
@pytest.mark.parametrize("param_grads", [True, False])
@pytest.mark.parametrize("make", MODELS, ids=lambda m: m.__name__)
def test_every_pass_has_the_norms_of_its_own_examples(make, param_grads, sizes):
    model, parts = built(make), batches(*sizes)
    if 0 in sizes and make is not mlp:
        pytest.skip("one model shows what an empty batch does to the others")
    expected = [single_norms(model, part) for part in parts]
    model.zero_grad()
    for part in parts:
        loss_of(model(part)).backward()
    plain = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    with GradNorms(model, param_grads=param_grads, check=make is not recomputed) as g:
        for part, norms in zip(parts, expected, strict=True):
            loss_of(model(part)).backward()
            np.testing.assert_allclose(g.norms().numpy(), norms, rtol=1e-9)
            layers = torch.stack(list(g.norms(per_layer=True).values()))
            np.testing.assert_allclose(layers.square().sum(0).sqrt().numpy(), norms, rtol=1e-9)
    for p, grad in zip(model.parameters(), plain, strict=True):
        if param_grads:
            torch.testing.assert_close(p.grad, grad, rtol=1e-10, atol=1e-12)
        else:
            assert p.grad is None


@pytest.mark.parametrize("make", MODELS, ids=lambda m: m.__name__)
def test_a_block_may_hold_steps_of_an_optimizer(make):
    model, other = built(make), built(make)
    steps = [torch.optim.SGD(m.parameters(), lr=0.1, momentum=0.5) for m in (model, other)]
    with GradNorms(model) as g:
        for part in batches(3, 2, 4):
            expected = single_norms(other, part)
            for m in (model, other):
                m.zero_grad()
                loss_of(m(part)).backward()
            np.testing.assert_allclose(g.norms().numpy(), expected, rtol=1e-9)
            for step in steps:
                step.step()
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-12)


def test_factors_of_accumulation_are_taken_out():
    model, parts = built(mlp), batches(4, 4, 2)
    labels = torch.arange(4) % 3
    truth = [
        [
            single_norms(model, row[None], lambda y, k=k: F.cross_entropy(y, k[None]))[0]
            for row, k in zip(part, labels, strict=False)
        ]
        for part in parts
    ]
    for reduction, own in (("mean", "mean"), ("sum", "sum"), ("share", "mean")):
        with GradNorms(model, loss_reduction=reduction) as g:
            for part, expected in zip(parts, truth, strict=True):
                (F.cross_entropy(model(part), labels[: len(part)], reduction=own) / 4).backward()
                found = g.norms(loss_scale=1 / 4).numpy() * (len(part) if reduction == "share" else 1)
                np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_tokens_are_counted_by_pass():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(7, 5), nn.Linear(5, 7)).double()
    tokens = torch.randint(0, 7, (6, 4))
    labels = torch.where(torch.rand(6, 4) < 0.5, -100, tokens)
    labels[:, 0] = tokens[:, 0]

    def loss(x, y):
        return F.cross_entropy(model(x).flatten(0, 1), y.flatten(), ignore_index=-100)

    truth = []
    for x, y in zip(tokens.split(1), labels.split(1), strict=True):
        grads = torch.autograd.grad(loss(x, y), list(model.parameters()))
        truth.append(sum(float(grad.square().sum()) for grad in grads) ** 0.5)
    with GradNorms(model, loss_reduction="token-mean") as g:
        for part in (slice(0, 4), slice(4, 6)):
            (loss(tokens[part], labels[part]) * 0.5).backward()
            with pytest.raises(ValueError, match="counts must be given"):
                g.norms()
            found = g.norms(counts=(labels[part] != -100).sum(1), loss_scale=0.5)
            np.testing.assert_allclose(found.numpy(), truth[part], rtol=1e-9)


def test_passes_of_several_calls_before_one_backward_add_up_by_row():
    model, (x, y) = built(mlp), batches(3, 3)
    expected = []
    for i in range(3):
        loss = loss_of(model(x[i : i + 1])) + loss_of(model(y[i : i + 1]))
        grads = torch.autograd.grad(loss, list(model.parameters()))
        expected.append(sum(float(grad.square().sum()) for grad in grads) ** 0.5)
    with GradNorms(model) as g:
        for _ in range(2):
            (loss_of(model(x)) + loss_of(model(y))).backward()
            np.testing.assert_allclose(g.norms().numpy(), expected, rtol=1e-9)


@pytest.mark.parametrize("param_grads", [True, False])
@pytest.mark.parametrize("make", MODELS, ids=lambda m: m.__name__)
def test_passes_through_other_calls_without_norms_between_are_refused(make, param_grads):
    model, parts = built(make), batches(3, 3)
    with GradNorms(model, param_grads=param_grads) as g:
        for part in parts:
            loss_of(model(part)).backward()
        with pytest.raises(UnsupportedLayerError, match="call norms\\(\\) after each backward"):
            g.norms()
        loss_of(model(parts[0])).backward()
        with pytest.raises(UnsupportedLayerError, match="call norms"):  # what was refused stays so
            g.norms()


def test_passes_through_other_parts_of_other_calls_are_refused():
    torch.manual_seed(0)
    model = Calls(lambda m, x: x, a=nn.Linear(6, 2), b=nn.Linear(6, 2)).double()
    model.function = lambda m, given: (m.a if given[1] else m.b)(given[0])
    x, y = batches(3, 3)
    with GradNorms(model) as g:
        model((x, True)).sum().backward()
        model((y, False)).sum().backward()
        with pytest.raises(UnsupportedLayerError, match="call norms"):
            g.norms()


@pytest.mark.parametrize("make", MODELS, ids=lambda m: m.__name__)
def test_two_losses_on_one_forward_pass_are_right_or_refused(make):
    model, (x,) = built(make), batches(3)
    with GradNorms(model) as g:
        output = model(x)
        output[:, 0].sum().backward(retain_graph=True)
        output[:, 1].square().sum().backward()
        with pytest.raises(UnsupportedLayerError, match=r"twice|second backward pass"):
            g.norms()


def test_two_losses_on_separate_parts_add_up():
    torch.manual_seed(0)
    model = Calls(lambda m, x: (m.a(x), m.b(x)), a=nn.Linear(6, 2), b=mlp_of(6)).double()
    (x,) = batches(3)
    expected = single_norms(model, x, lambda y: y[0].sum() + y[1].square().sum())
    with GradNorms(model) as g:
        for _ in range(2):
            first, second = model(x)
            first.sum().backward()
            second.square().sum().backward()
            np.testing.assert_allclose(g.norms().numpy(), expected, rtol=1e-9)


@pytest.mark.parametrize("make", MODELS, ids=lambda m: m.__name__)
def test_backward_through_a_closed_pass_is_refused(make):
    model, (x, y) = built(make), batches(3, 3)
    with GradNorms(model) as g:
        output = model(x)
        output[:, 0].sum().backward(retain_graph=True)
        g.norms()
        output[:, 1].square().sum().backward(retain_graph=make is not recomputed)
        with pytest.raises(UnsupportedLayerError, match="whose norms were taken"):
            g.norms()
    if make is recomputed:
        return
    with GradNorms(model) as g:
        output = model(x)
        output[:, 0].sum().backward(retain_graph=True)
        g.norms()
        (loss_of(model(y)) + loss_of(output)).backward()
        with pytest.raises(UnsupportedLayerError, match="whose norms were taken"):
            g.norms()


def test_norms_before_the_backward_pass_of_another_call_are_not_those_of_the_last():
    model, (x, y) = built(mlp), batches(3, 3)
    second = single_norms(model, y)
    with GradNorms(model) as g:
        loss_of(model(x)).backward()
        first = g.norms()
        with torch.no_grad():
            model(y)
        torch.testing.assert_close(g.norms(), first)
        loss = loss_of(model(y))
        with pytest.raises(RuntimeError, match="after backward"):
            g.norms()
        loss.backward()
        np.testing.assert_allclose(g.norms().numpy(), second, rtol=1e-9)


def test_what_a_pass_refuses_is_not_forgotten_by_the_next():
    torch.manual_seed(0)
    model, (x,) = Calls(lambda m, x: m.a(x.flip(0) if m.mixes else x), a=nn.Linear(6, 2)).double(), batches(3)
    with GradNorms(model) as g:
        for model.mixes in (True, False):
            loss_of(model(x)).backward()
            with pytest.raises(UnsupportedLayerError, match="flip"):
                g.norms()


def test_examples_that_interact_in_a_later_pass_are_found_by_check():
    torch.manual_seed(0)
    model, (x,) = Calls(lambda m, x: m.a(x) * m.factor(x), a=nn.Linear(6, 2)).double(), batches(3)
    with GradNorms(model, check=3) as g:
        model.factor = lambda x: 1.0
        loss_of(model(x)).backward()
        g.norms()
        model.factor = lambda x: float(x.norm())
        loss_of(model(x)).backward()
        with pytest.raises(GradNormMismatchError):
            g.norms()


def test_a_pass_leaves_nothing_in_memory():
    from weakref import ref

    model, (x, y) = built(shared), batches(3, 3)
    with GradNorms(model) as g:
        output = model(x)
        loss_of(output).backward()
        g.norms()
        held = [ref(use) for uses in g._tracker.uses for use in uses]
        assert not held
        assert not g._tracker.settled
        assert not g._tracker.replays
        loss_of(model(y)).backward()
        g.norms()


@pytest.mark.parametrize("bad", [0.0, -1.0, float("nan"), float("inf")])
def test_loss_scale_is_checked(bad):
    model, (x,) = built(mlp), batches(3)
    with GradNorms(model) as g:
        loss_of(model(x)).backward()
        with pytest.raises(ValueError, match="loss_scale"):
            g.norms(loss_scale=bad)
        with pytest.raises(ValueError, match="counts must be given only with"):
            g.norms(counts=[1, 1, 1])


@pytest.mark.parametrize("param_grads", [True, False])
def test_parts_of_a_model_are_followed_from_what_the_pass_is_said_to_be_of(param_grads):
    model, parts = built(mlp), batches(3, 1, 4)
    expected = [single_norms(model, part) for part in parts]
    block = GradNorms(model, param_grads=param_grads)
    with pytest.raises(RuntimeError, match="inside the block"):
        block.begin_pass(parts[0])
    with block as g:
        for part, norms in zip(parts, expected, strict=True):
            g.begin_pass({"x": part, "y": [torch.zeros(len(part))]})
            loss_of(model[2:](model[:2](part))).backward()
            np.testing.assert_allclose(g.norms().numpy(), norms, rtol=1e-9)
        loss_of(model[2:](model[:2](part))).backward()
        with pytest.raises(UnsupportedLayerError, match="call the model itself in the block"):
            g.norms()
