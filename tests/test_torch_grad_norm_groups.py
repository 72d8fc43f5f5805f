"""Norms of groups of examples: those of the sum of the examples' gradients, cross terms included."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the PyTorch backend needs expunge[torch]", exc_type=ImportError)

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn.utils.parametrizations import weight_norm  # noqa: E402

from expunge.torch import GradNorms  # noqa: E402
from expunge.torch._errors import GradNormMismatchError, UnsupportedLayerError  # noqa: E402
from torch_norms import Calls, block_norms, loss_of  # noqa: E402


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(7, 4, padding_idx=0)
        self.place = nn.Parameter(torch.linspace(-1, 1, 20).view(5, 4))

    def forward(self, x):
        return (self.table(x) + self.place).tanh() @ self.table.weight.T


class Recurrent(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.layer = kind(4, 3, batch_first=True)

    def forward(self, x):
        return self.layer(x)[0]


def convolutions():
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, stride=2, padding=1, groups=2), nn.GroupNorm(2, 4), nn.ReLU(),
        nn.Conv2d(4, 3, 3, padding="same"),
        nn.InstanceNorm2d(3, affine=True), nn.Flatten(), nn.Linear(27, 2),
    )  # fmt: skip


def shared():
    inner = nn.Linear(4, 4)
    return nn.Sequential(inner, nn.Tanh(), inner, nn.LayerNorm(4), nn.Linear(4, 2, bias=False))


def replayed():
    torch.manual_seed(5)
    return Calls(lambda m, x: torch.cdist(x, m.a), a=nn.Parameter(torch.randn(3, 4)))


# Models, and the shape of an example; integers where there is an embedding.
MODELS = {
    "linear": (lambda: nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2)), (4,)),
    "sequence": (lambda: nn.Sequential(nn.Linear(4, 3), nn.LayerNorm(3), nn.GELU(), nn.Linear(3, 2)), (6, 4)),
    "one use twice": (shared, (4,)),
    "convolutions": (convolutions, (2, 6, 6)),
    "tied embedding": (Tied, (5,)),
    "attention": (lambda: nn.TransformerEncoderLayer(4, 2, 6, dropout=0.0, batch_first=True), (5, 4)),
    "LSTM": (lambda: Recurrent(nn.LSTM), (5, 4)),
    "GRU": (lambda: Recurrent(nn.GRU), (5, 4)),
    "weight norm": (lambda: weight_norm(nn.Linear(4, 3)), (4,)),
    "replayed": (replayed, (4,)),
    "scale and shift": (lambda: Calls(lambda m, x: x * m.a + m.b, a=nn.Parameter(torch.ones(4)),
                                      b=nn.Parameter(torch.ones(6, 4))), (6, 4)),
}  # fmt: skip


def made(name, batch, seed=0, dtype=torch.float64):
    torch.manual_seed(seed)
    build, shape = MODELS[name]
    model = build().to(dtype)
    if name == "tied embedding":
        return model, torch.randint(7, (batch, *shape))
    return model, torch.randn(batch, *shape, dtype=dtype)


def group_norms(model, x, groups, loss=loss_of):
    """Norms of autograd's own gradients of each group's examples, sorted by group."""
    parameters = list(model.parameters())
    out = []
    for group in sorted(set(groups)):
        rows = [i for i, one in enumerate(groups) if one == group]
        grads = torch.autograd.grad(sum(loss(model(x[i : i + 1])) for i in rows), parameters, allow_unused=True)
        out.append(sum(float(g.square().sum()) for g in grads if g is not None) ** 0.5)
    return np.array(out)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("groups", [[3, 1, 3, 2, 1, 3, 3], [0] * 7, list(range(7)), [0, 0, 0, 1, 1, 1, 2]])
def test_norms_of_groups_are_those_of_their_summed_gradients(name, groups):
    model, x = made(name, len(groups))
    expected = group_norms(model, x, groups)
    for param_grads in (True, False):
        with GradNorms(model, groups=groups, param_grads=param_grads) as g:
            loss_of(model(x)).backward()
            np.testing.assert_allclose(g.norms(), expected, rtol=1e-9, atol=1e-12)
            of_layers = sum(norm.square() for norm in g.norms(per_layer=True).values()).sqrt()
            np.testing.assert_allclose(of_layers, expected, rtol=1e-9, atol=1e-12)
            assert g.group_ids.tolist() == sorted(set(groups))


@settings(max_examples=15, deadline=None)
@given(st.sampled_from(sorted(MODELS)), st.lists(st.sampled_from("abcd"), min_size=1, max_size=9), st.integers(0, 99))
def test_groups_in_any_order_and_of_any_size(name, groups, seed):
    model, x = made(name, len(groups), seed)
    found = block_norms(model, x, groups=groups)
    np.testing.assert_allclose(found, group_norms(model, x, groups), rtol=1e-8, atol=1e-11)


@pytest.mark.parametrize("name", MODELS)
def test_groups_of_one_have_the_norms_of_their_examples(name):
    model, x = made(name, 4)
    np.testing.assert_allclose(
        block_norms(model, x, groups=["d", "c", "b", "a"]), block_norms(model, x)[::-1], rtol=1e-12, atol=1e-13
    )


@pytest.mark.parametrize("name", ["linear", "sequence", "convolutions", "tied embedding"])
def test_single_precision_is_as_close_as_it_can_be(name):
    groups = [0, 1, 0, 2, 2, 2]
    model, x = made(name, len(groups), dtype=torch.float32)
    found = block_norms(model, x, groups=groups)
    assert found.dtype == np.float32
    wide = x if name == "tied embedding" else x.double()
    np.testing.assert_allclose(found, group_norms(model.double(), wide, groups), rtol=1e-4)


def test_chunks_of_examples_add_up(monkeypatch):
    """Norms do not depend on how many gradients fit into memory at once."""
    groups = [1, 0, 1, 0, 2, 1]
    for name in ("scale and shift", "convolutions", "replayed", "weight norm"):
        model, x = made(name, len(groups))
        expected = group_norms(model, x, groups)
        for budget in (1, 30, 100):
            monkeypatch.setattr("expunge.torch._contributions._BUDGET", budget)
            np.testing.assert_allclose(block_norms(model, x, groups=groups), expected, rtol=1e-9)


def test_records_that_cancel_leave_nothing_of_the_group():
    model = nn.Linear(3, 1, bias=False).double()
    x = torch.tensor([[1.0, 2.0, 3.0], [-1.0, -2.0, -3.0]], dtype=torch.float64)
    with GradNorms(model, groups=[7, 7]) as g:
        model(x).sum().backward()
        assert float(g.norms()) == 0.0


def test_means_and_several_passes():
    model, x = made("linear", 6)
    with GradNorms(model, groups=[0, 1, 1] * 2, loss_reduction="mean") as g:
        for _ in range(2):
            model(x).square().sum(1).mean().backward()
            found = g.norms()
            np.testing.assert_allclose(g.norms(), found)
    np.testing.assert_allclose(found, group_norms(model, x, [0, 1, 1] * 2, lambda out: out.square().sum()))


def test_checks_repeat_the_members_of_a_group():
    model, x = made("sequence", 5)
    with GradNorms(model, groups=list("abbac"), check=True) as g:
        loss_of(model(x)).backward()
        assert g.norms().shape == (3,)

    mixes = Calls(lambda m, x: m.a(x) * float(x.detach().sum()), a=nn.Linear(4, 2)).double()
    with GradNorms(mixes, groups=[0, 0, 1], check=2) as g:
        loss_of(mixes(x[:3, 0])).backward()
        with pytest.raises(GradNormMismatchError, match="group"):
            g.norms()


def test_a_group_of_examples_that_interact_is_refused_like_one_example():
    model = Calls(lambda m, x: m.a(x) - m.a(x).mean(0), a=nn.Linear(4, 2)).double()
    with GradNorms(model, groups=[0, 0, 1]) as g:
        loss_of(model(torch.randn(3, 4, dtype=torch.float64))).backward()
        with pytest.raises(UnsupportedLayerError):
            g.norms()


def test_bad_groups_are_named():
    model, x = made("linear", 3)
    for groups, error, message in (
        ([0.5, 1.0, 2.0], TypeError, "groups: ids must be whole numbers or text, got dtype|float"),
        ([[0, 1, 2]], ValueError, "groups: ids must have one dimension"),
        (["", "a", "b"], ValueError, "groups: ids must not be empty"),
        ([1, "a", 2], TypeError, "groups: ids must be all whole numbers or all text"),
    ):
        with pytest.raises(error, match=message):
            GradNorms(model, groups=groups)
    with pytest.raises(ValueError, match='groups must not be given with loss_reduction="token-mean"'):
        GradNorms(model, groups=[0, 1, 2], loss_reduction="token-mean", counts=[1, 1, 1])
    with GradNorms(model, groups=[0, 1]), pytest.raises(ValueError, match="each of the 3 examples of the batch, got 2"):
        model(x)
    with GradNorms(model, groups=torch.tensor([2, 1, 2])) as g:
        model(x).sum().backward()
        assert g.group_ids.tolist() == [1, 2]
    assert GradNorms(model).group_ids is None


def test_an_empty_batch_has_no_groups():
    model, x = made("linear", 0)
    with GradNorms(model, groups=[]) as g:
        loss_of(model(x)).backward()
        assert g.norms().shape == (0,)
