"""What else happens in a block of GradNorms: parameters frozen, replaced, moved; copies; other calls of the model."""

import copy
import io
from dataclasses import dataclass

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the PyTorch backend needs expunge[torch]", exc_type=ImportError)

from torch import nn  # noqa: E402

from expunge.torch import GradNorms, UnsupportedLayerError  # noqa: E402
from torch_norms import Calls, block_norms, loss_of, single_norms  # noqa: E402

X = torch.linspace(-2, 2, 30).double().view(5, 6).mul(7).sin()


def layers():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.LayerNorm(8), nn.Linear(8, 3)).double()


def set_twice(model):
    for p in model.parameters():
        p.data = p.data * 2


def set_twice_without_gradients(model):
    with torch.no_grad():
        set_twice(model)


CHANGES = {
    "frozen": lambda m: m[0].weight.requires_grad_(False),
    "loaded": lambda m: m.load_state_dict({name: 2 * value for name, value in m.state_dict().items()}),
    "data set": set_twice,
    "data set without gradients": set_twice_without_gradients,
    "in place": lambda m: m[0].weight.data.mul_(2),
    "of another dtype": lambda m: m.float().double(),
}


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("param_grads", [True, False])
def test_changes_of_parameters_before_their_use_count(name, param_grads):
    model, same = layers(), layers()
    CHANGES[name](same)
    expected = single_norms(same, X)
    loss_of(same(X)).backward()
    with GradNorms(model, param_grads=param_grads) as g:
        CHANGES[name](model)
        loss_of(model(X)).backward()
        np.testing.assert_allclose(g.norms(), expected, rtol=1e-9)
    for p, q in zip(model.parameters(), same.parameters(), strict=True):
        if param_grads and q.grad is not None:
            torch.testing.assert_close(p.grad, q.grad)
        else:
            assert p.grad is None


def test_parameters_may_be_frozen_for_one_call_alone():
    model = layers()
    expected = single_norms(model, X)
    with GradNorms(model) as g:
        model.requires_grad_(False)
        frozen = model(X)
        model.requires_grad_(True)
        loss_of(model(X) + frozen).backward()
        found = g.norms()
    with GradNorms(model) as g:
        loss_of(model(X) + model(X).detach()).backward()
        np.testing.assert_allclose(found, g.norms(), rtol=1e-12)
    assert not np.allclose(found, expected)


def test_steps_that_set_data_between_passes_are_followed():
    model, same = layers(), layers()
    with GradNorms(model) as g:
        for _ in range(3):
            loss_of(model(X)).backward()
            np.testing.assert_allclose(g.norms(), single_norms(same, X), rtol=1e-9)
            for p, q, grad in zip(
                model.parameters(),
                same.parameters(),
                torch.autograd.grad(loss_of(same(X)), list(same.parameters())),
                strict=True,
            ):
                p.data = p.data - 0.1 * p.grad
                p.grad = None
                q.data = q.data - 0.1 * grad


def unfrozen(m):
    m[0].weight.requires_grad_(True)


def replaced(m):
    m[3].weight = nn.Parameter(2 * m[3].weight.detach())


def assigned(m):
    m.load_state_dict({name: 2 * value for name, value in m.state_dict().items()}, assign=True)


@pytest.mark.parametrize(("change", "name"), [(unfrozen, "0.weight"), (replaced, "3.weight"), (assigned, "3.weight")])
@pytest.mark.parametrize("when", ["before", "during", "after"])
def test_new_parameters_in_a_block_are_refused(change, name, when):
    model = layers()
    if change is unfrozen:
        model[0].weight.requires_grad_(False)
    with GradNorms(model) as g:
        if when == "before":
            change(model)
        handle = model.register_forward_pre_hook(lambda m, _: change(m)) if when == "during" else None
        loss = loss_of(model(X))
        if handle is not None:
            handle.remove()
        loss.backward()
        if when == "after":
            change(model)
        with pytest.raises(UnsupportedLayerError, match=rf"^{name}: it did not require grad when the block began"):
            g.norms()


def test_data_set_between_a_use_and_norms_is_refused():
    model = layers()
    with GradNorms(model) as g:
        output = model(X)
        model[0].weight.data = model[0].weight.data * 2
        loss_of(output).backward()
        with pytest.raises(UnsupportedLayerError, match=r"^0\.weight: its data was set between"):
            g.norms()


def test_copies_of_the_model_are_models_without_the_block():
    model = layers()
    expected = single_norms(model, X)
    with GradNorms(model, check=True) as g:
        made = copy.deepcopy(model)
        file = io.BytesIO()
        torch.save(model, file)
        file.seek(0)
        loaded = torch.load(file, weights_only=False)
        loss_of(model(X) + made(X).detach() * 0).backward()
        np.testing.assert_allclose(g.norms(), expected, rtol=1e-9)
    assert len(file.getvalue()) < 20_000
    for other in (made, loaded):
        np.testing.assert_array_equal(other(X).detach(), model(X).detach())
        np.testing.assert_allclose(block_norms(other, X), expected, rtol=1e-9)


@pytest.mark.parametrize("examples", [1, 9])
@pytest.mark.parametrize("check", [False, 5])
def test_calls_without_gradients_may_take_other_batches(examples, check):
    model, others = layers(), torch.ones(examples, 6).double()
    expected = single_norms(model, X)
    with GradNorms(model, check=check) as g:
        for _ in range(2):
            with torch.no_grad():
                model(others)
            loss = loss_of(model(X))
            with torch.no_grad():
                model(others)
            loss.backward()
            np.testing.assert_allclose(g.norms(), expected, rtol=1e-9)


def test_what_other_examples_gave_is_no_constant():
    model, more = layers(), torch.cat([X, X])
    with GradNorms(model) as g:
        with torch.no_grad():
            teacher = model(more)
        loss_of(model(X) * teacher.mean()).backward()
        with pytest.raises(UnsupportedLayerError, match="10 other examples before, without gradients"):
            g.norms()


def test_reading_what_is_not_there_changes_nothing():
    model = Calls(lambda m, x: m.a(x if x.grad is None else x + x.grad), a=nn.Linear(6, 3)).double()
    np.testing.assert_allclose(block_norms(model, X), single_norms(model, X), rtol=1e-9)


def test_two_models_in_two_blocks():
    first, second = layers(), nn.Linear(3, 2).double()
    expected = single_norms(first, X, lambda y: loss_of(second(y)))
    with GradNorms(first) as f, GradNorms(second) as s:
        y = first(X)
        loss_of(second(y)).backward()
        np.testing.assert_allclose(f.norms(), expected, rtol=1e-9)
        np.testing.assert_allclose(s.norms(), single_norms(second, y.detach()), rtol=1e-9)


@dataclass(frozen=True)
class Batch:
    x: torch.Tensor
    more: dict
    name: str = "b"


class OfBatches(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(6, 3).double()

    def forward(self, batch):
        return Batch(self.a(batch.x) * batch.more["scale"], {})


@pytest.mark.parametrize("check", [False, 5])
def test_dataclasses_go_in_and_out(check):
    model, scale = OfBatches(), X[:, :1]
    with GradNorms(model, check=check) as g:
        loss_of(model(Batch(X, {"scale": scale})).x).backward()
        found = g.norms()
    layer = Calls(lambda m, x: m.a(x[:, :6]) * x[:, 6:], a=model.a)
    np.testing.assert_allclose(found, single_norms(layer, torch.cat([X, scale], 1)), rtol=1e-9)


class Result:
    def __init__(self, scores):
        self.scores = scores


def test_check_says_what_it_cannot_repeat():
    x, model = X, layers()
    hidden = Calls(lambda m, x: Result(m.a(x)), a=nn.Linear(6, 3)).double()
    with GradNorms(hidden, check=True) as g:
        loss_of(hidden(x).scores).backward()
        with pytest.raises(UnsupportedLayerError, match="no tensor in the model's output, a Result"):
            g.norms()
    step = torch.optim.SGD(model.parameters(), lr=0.1).step
    with GradNorms(model, check=True) as g:
        loss_of(model(x)).backward()
        step()
        with pytest.raises(UnsupportedLayerError, match="parameters were changed since the model was called"):
            g.norms()
    drawn = Calls(lambda m, x: m.a(x) * np.random.rand(), a=nn.Linear(6, 3)).double()  # noqa: NPY002
    with pytest.raises(UnsupportedLayerError, match="random numbers"):
        block_norms(drawn, x, check=True)


class Counting(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(6, 3).double()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls = self.calls + 1
        return self.a(x)


def test_check_gives_buffers_that_were_replaced_back():
    model = Counting()
    block_norms(model, X, check=5)
    assert model.calls == 1


SUMS = {
    "cat": lambda h: torch.cat([h.sum(0, keepdim=True), h.mean(0, keepdim=True)]),
    "cat with rows": lambda h: torch.cat([h.sum(0, keepdim=True), h]),
    "cat with picked rows": lambda h: torch.cat([h.sum(0, keepdim=True), h[h[:, 0] > h[:, 1]]]),
    "stack": lambda h: torch.stack([h.sum(0), h.sum(0)]),
    "index_select": lambda h: h.sum(0).index_select(0, torch.tensor([0])),
    "entry": lambda h: h.sum(0)[torch.tensor([True, False, True])],
    "index_add": lambda h: h.sum(0).index_add(0, torch.tensor([0, 1, 2]), h.sum(0)),
}


@pytest.mark.parametrize("name", SUMS)
def test_sums_over_examples_in_calls_that_pick_rows_are_refused_by_name(name):
    model = Calls(lambda m, x: SUMS[name](m.a(x)), a=nn.Linear(6, 3)).double()
    with pytest.raises(UnsupportedLayerError, match=r"sums? over examples"):
        block_norms(model, X)
