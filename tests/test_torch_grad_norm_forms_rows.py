"""GradNorms of rows that masks and indices pick along the batch dimension: routed experts, bags, pairs, packing."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch", reason="the PyTorch backend needs expunge[torch]", exc_type=ImportError)

from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402, N812

from expunge.torch import GradNorms, UnsupportedLayerError  # noqa: E402
from expunge.torch._axis import Rows, rows_of, taken  # noqa: E402
from torch_norms import Calls, assert_exact_at_all_sizes, block_norms  # noqa: E402

D, T = 6, 5  # T is a size of a batch, too


def linear(a, b):
    return lambda: nn.Linear(a, b)


def experts():
    return nn.ModuleList([nn.Linear(D, D) for _ in range(3)])


def summed(y):
    return (y[0] if isinstance(y, tuple) else y).sin().sum()


# --- experts ------------------------------------------------------------------------------------------


def scores(m, x):
    return m.gate(x).softmax(-1)


def by_places(m, x):
    flat = x.reshape(-1, D)
    gates, out = scores(m, flat), torch.zeros_like(flat)
    for k, expert in enumerate(m.experts):
        rows = (gates.argmax(-1) == k).nonzero().squeeze(-1)
        out.index_add_(0, rows, expert(flat[rows]) * gates[rows, k, None])
    return out.view(x.shape)


def by_masks(m, x):
    flat = x.reshape(-1, D)
    gates, out = scores(m, flat), torch.zeros_like(flat)
    for k, expert in enumerate(m.experts):
        mask = gates.argmax(-1) == k
        out[mask] = expert(flat[mask]).relu_() * gates[mask][:, k, None]
    return out.view(x.shape)


def by_two_places(m, x):
    gates, out = scores(m, x), torch.zeros_like(x)
    for k, expert in enumerate(m.experts):
        rows, steps = torch.where(gates.argmax(-1) == k)
        out[rows, steps] += gates[rows, steps, k, None] * expert(x[rows, steps])
    return out


def two_of_three(m, x):
    flat = x.view(-1, D)
    weights, chosen = torch.topk(scores(m, flat), 2, dim=-1)
    weights, out = weights / weights.sum(-1, keepdim=True), torch.zeros_like(flat)
    masks = F.one_hot(chosen, num_classes=3).permute(2, 1, 0)
    for k, expert in enumerate(m.experts):
        which, rows = torch.where(masks[k])
        given_ = flat[None, rows].reshape(-1, D)
        out.index_add_(0, rows, expert(given_) * weights[rows, which, None])
    return out.view(x.shape)


def residual(m, x):
    """Rows written back among those that were there."""
    h = m.experts[0](x)
    mask = scores(m, x)[..., 0] > 0.4
    kept = h.clone()
    kept[mask] = kept[mask] + m.experts[1](F.layer_norm(h[mask], (D,)))
    rows = mask.nonzero(as_tuple=True)
    return kept.index_put(rows, m.experts[2](kept[rows]), accumulate=True)


EXPERTS = {f.__name__: f for f in (by_places, by_masks, by_two_places, two_of_three, residual)}


@pytest.mark.parametrize("name", EXPERTS)
def test_routed_experts_are_exact(name):
    assert_exact_at_all_sizes(EXPERTS[name], {"gate": linear(D, 3), "experts": experts}, (T, D))


# --- rows that are left out, or in another order ------------------------------------------------------


class Norm(nn.LayerNorm):
    def __init__(self):
        super().__init__(D)


def turned(x):
    return torch.arange(len(x)).flip(0)


PICKS = {
    "a mask": lambda m, x: m.o(m.i(x)[x[..., 0] > 0]),
    "a mask of whole examples, never none": lambda m, x: m.o(m.i(x)[(x[:, 0, 0] > -9) & (x[:, 0, 1] > -9)]),
    "a mask, then a normalisation": lambda m, x: m.o(m.n(m.i(x)[x[..., 0] > 0])),
    "a mask of merged rows": lambda m, x: m.o(m.i(x.reshape(-1, D))[x.reshape(-1, D)[:, 0] > 0]),
    "a mask twice": lambda m, x: (lambda h, k: m.o(h[k][h[k].detach()[:, 0] > -9]))(m.i(x), x[..., 0] > 0),
    "entries": lambda m, x: m.o(m.i(x)).masked_select(x[..., :3] > 0),
    "entries by a column": lambda m, x: m.o(m.i(x)).masked_select(x[..., :1] > 0),
    "places": lambda m, x: m.o(m.i(x)[(x[..., 1] < 0.5).nonzero(as_tuple=True)]),
    "turned round": lambda m, x: m.o(m.i(x)[turned(x)]),
    "turned round and back": lambda m, x: m.o(m.i(x)[turned(x)].flip(1)[turned(x)] * x),
    "selected": lambda m, x: m.o(m.i(x).index_select(0, torch.arange(len(x)).roll(1))).cumsum(1),
    "twice": lambda m, x: m.o(m.i(x)[torch.arange(len(x)).repeat(2)]),
    "put together": lambda m, x: (lambda h: m.o(torch.cat([h[x[:, 0, 0] > -9], h, h[turned(x)]])))(m.i(x)),
    "picked, with steps of their own": lambda m, x: m.o(m.i(x)[x[:, 0, 0] > -9].flatten(0, 1)),
    "the sum of squares of every row": lambda m, x: m.o(m.i(x)[x[..., 0] > 0]).square().sum(-1),
    "scores by targets": lambda m, x: (
        lambda k: F.cross_entropy(m.o(m.i(x))[k], x[..., :3].argmax(-1)[k], reduction="none"))(x[..., 0] > 0),
}  # fmt: skip


@pytest.mark.parametrize("name", PICKS)
def test_rows_that_are_picked_are_exact(name):
    parts = {"i": linear(D, D), "o": linear(D, 3)}
    if ".n(" in str(name) or "normalisation" in name:
        parts["n"] = Norm
    assert_exact_at_all_sizes(PICKS[name], parts, (T, D), summed)


def test_labels_that_are_left_out_of_the_loss_are_exact():
    """The labels are given to the loss alone, and those that do not count are picked out by a mask of them."""
    torch.manual_seed(0)
    model, x = nn.Linear(D, 3).double(), torch.randn(4, T, D).double()
    labels = torch.randint(0, 3, (4, T)).masked_fill(torch.rand(4, T) < 0.4, -100)

    def loss(y, rows, reduction="sum"):
        keep = labels[rows] != -100
        return F.cross_entropy(y[keep], labels[rows][keep], reduction=reduction)

    expected = [block_norms(model, x[i : i + 1], lambda y, i=i: loss(y, slice(i, i + 1)))[0] for i in range(4)]
    np.testing.assert_allclose(block_norms(model, x, lambda y: loss(y, slice(None))), expected, rtol=1e-9)
    counts = (labels != -100).sum(1)
    with GradNorms(model, loss_reduction="token-mean", counts=counts) as g:
        loss(model(x), slice(None), "mean").backward()
        np.testing.assert_allclose(g.norms().numpy(), np.array(expected) / counts.numpy(), rtol=1e-9)
    with pytest.warns(UserWarning, match="mean over tokens"):
        block_norms(model, x, lambda y: loss(y, slice(None), "mean"))


PAIRS = {
    "chunks": lambda m, x: (lambda a, b: (a - b).square())(*m.e(torch.cat([x[:, :2], x[:, 2:4]])).chunk(2)),
    "slices": lambda m, x: (lambda z: F.cosine_similarity(z[: len(x)], z[len(x) :]))(
        m.e(torch.cat([x[:, 0], x[:, 1]]))
    ),
    "a view": lambda m, x: m.e(torch.cat([x[:, 0], x[:, 1]])).view(2, len(x), 3).prod(0),
    "three": lambda m, x: F.triplet_margin_loss(
        *m.e(torch.cat([x[:, 0], x[:, 1], x[:, 2]])).split(len(x)), reduction="none", margin=5.0
    ),
    "with itself": lambda m, x: m.e(torch.cat([x, x])).chunk(2)[1],
    "two of three": lambda m, x: (lambda z: z[len(x) :].unflatten(0, (2, -1))[0] * z[: len(x)])(
        m.e(torch.cat([x, x.sin(), x]))
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PAIRS)
def test_pairs_put_together_along_the_batch_are_exact(name):
    net = lambda: nn.Sequential(nn.Linear(D, 7), nn.GELU(), nn.Linear(7, 3))  # noqa: E731
    assert_exact_at_all_sizes(PAIRS[name], {"e": net}, (T, D))


# --- bags ---------------------------------------------------------------------------------------------


def words(x):
    return (x[..., 0].abs() * 37).long() % 11


def offsets(x, last=False):
    return torch.arange(len(x) + last) * T


def ragged(m, x):
    """Bags of as many words as each example has."""
    keep = x[..., 1] > -0.5
    counts = keep.sum(1)
    return m.e(words(x)[keep], counts.cumsum(0) - counts)


BAGS = {
    "sum": ("sum", lambda m, x: m.e(words(x).flatten(), offsets(x)), {}),
    "mean": ("mean", lambda m, x: m.e(words(x).flatten(), offsets(x)), {}),
    "weights": ("sum", lambda m, x: m.e(words(x).flatten(), offsets(x), x[..., 1].flatten()), {}),
    "padding": ("mean", lambda m, x: m.e(words(x).flatten(), offsets(x)), {"padding_idx": 3}),
    "padding from behind": ("sum", lambda m, x: m.e(words(x).flatten(), offsets(x)), {"padding_idx": -2}),
    "last offset": ("mean", lambda m, x: m.e(words(x).flatten(), offsets(x, True)), {"include_last_offset": True}),
    "two dimensions": ("max", lambda m, x: m.e(words(x)), {}),
    "two dimensions, weights": ("sum", lambda m, x: m.e(words(x), per_sample_weights=x[..., 1]), {}),
}


@pytest.mark.parametrize("name", BAGS)
def test_bags_of_words_are_exact(name):
    mode, function, more = BAGS[name]
    assert_exact_at_all_sizes(function, {"e": lambda: nn.EmbeddingBag(11, D, mode=mode, **more)}, (T, D))


def test_bags_that_cannot_be_told_apart_are_refused_with_the_remedy():
    x = torch.randn(3, T, D).double()
    table = Calls(lambda m, x: m.e(words(x).flatten(), offsets(x)), e=nn.EmbeddingBag(11, D, mode="max")).double()
    with pytest.raises(UnsupportedLayerError, match=r"embedding_bag with offsets .* indices of shape \(B, T\)"):
        block_norms(table, x)
    crossed = Calls(
        lambda m, x: m.e(words(x).flatten(), torch.tensor([0, T + 1, 2 * T])), e=nn.EmbeddingBag(11, D, mode="sum")
    ).double()
    with pytest.raises(UnsupportedLayerError, match="rows of different examples"):
        block_norms(crossed, x)
    with pytest.raises(UnsupportedLayerError, match="cumsum"):
        block_norms(Calls(ragged, e=nn.EmbeddingBag(11, D, mode="sum")).double(), x)


# --- what a wrong rule would get wrong ----------------------------------------------------------------

TURN = torch.tensor([1, 0, 2])
MIXED = {
    "a mask of other examples": (lambda h, x: h[(x[..., 0] > 0)[TURN]], "along the batch dimension"),
    "rows meet others": (lambda h, x: h[TURN] + h, "different places"),
    "rows meet others in a product": (lambda h, x: torch.einsum("btd,btd->bd", h[TURN], h), "different places"),
    "one mask meets another": (lambda h, x: h[x[..., 0] > 0][:1] + h[x[..., 0] > -9][:1], "along the batch|different"),
    "written to other rows": (
        lambda h, x: (lambda z: (z.index_add_(0, TURN, h), z)[1])(torch.zeros_like(h) * x[:, :, :1]),
        "different examples",
    ),
    "written by another mask": (
        lambda h, x: (lambda z, k: (z.__setitem__(k[TURN], h[k]), z)[1])(h * 1.0, x[..., :2].argmax(-1) < 9), "setitem",
    ),
    "numbers of places": (
        lambda h, x: h * (x[:, 0, 0] > -9).nonzero().double().mean(0, keepdim=True), "positions along",
    ),
    "numbers of places added": (lambda h, x: h + (x[:, 0, 0] > -9).nonzero()[:, :, None], "positions along"),
    "numbers of places looked up": (
        lambda h, x: h + F.embedding((x[:, 0, 0] > -9).nonzero(), torch.eye(D).double()), "positions along",
    ),
    "over the rows picked": (lambda h, x: h[x[..., 0] > 0].softmax(0), "along the batch"),
    "the mean of rows picked": (lambda h, x: h[x[..., 0] > 0].mean(0).square(), "not linear"),
    "one row for all": (lambda h, x: h[TURN][:1] * h, "batch"),
    "rows cut up": (lambda h, x: h[TURN].view(T, -1, D), "rows up .* picked along the batch"),
    "places of another axis": (
        lambda h, x: h.transpose(0, 1)[(x[:, 0, 0] > -9).nonzero().squeeze(1)[:, None], 0], "batch dimension",
    ),
    "chosen by all, of rows in turn": (
        lambda h, x: h[(torch.arange(T) == h.sum((1, 2)).argsort()[:, None]) | (torch.arange(T) < 0)], "argsort",
    ),
    "chosen by all": (lambda h, x: h[torch.arange(3), h.sum((1, 2)).argsort()], "batch dimension|argsort"),
    "in order of length, beside constants": (
        lambda h, x: h[(x[:, 0, 0] * 9).long().argsort()] * torch.arange(3.0)[:, None, None].double(), "constants",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MIXED)
@pytest.mark.parametrize("param_grads", [True, False])
def test_rows_of_different_examples_do_not_meet(name, param_grads):
    mix, match = MIXED[name]
    torch.manual_seed(1)
    x = torch.randn(3, T, D).double()
    x[0, :, 0], x[1, :, 0] = x[0, :, 0].abs(), -x[1, :, 0].abs()
    model = Calls(lambda m, x: m.o(mix(m.i(x), x)), i=nn.Linear(D, D), o=nn.Linear(D, 2)).double()
    with pytest.raises(UnsupportedLayerError, match=match):
        block_norms(model, x, summed, param_grads=param_grads)


@settings(max_examples=60)
@given(
    st.integers(1, 4).flatmap(lambda b: st.tuples(st.just(b), st.lists(st.integers(0, b - 1), max_size=9))),
    st.booleans(),
)
def test_rows_come_to_their_examples(case, behind):
    batch, owner = case
    axis = Rows(1 if behind else 0, torch.tensor(owner, dtype=torch.long))
    t = torch.arange(1.0, 2 * len(owner) + 1).view(len(owner), 2)
    rows = rows_of(t.T if behind else t, axis, batch)
    for example in range(batch):
        own = t[[k for k, e in enumerate(owner) if e == example]]
        assert torch.equal(rows[example][: len(own)], own)
        assert not rows[example][len(own) :].any()
        part = taken(t.T if behind else t, axis, batch, example, example + 1)
        assert torch.equal(part.T if behind else part, own)
