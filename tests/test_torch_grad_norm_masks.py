"""GradNorms with masks: what one example's mask picks, writes or shuts out is its own, or the norms are refused."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch", reason="the PyTorch backend needs expunge[torch]", exc_type=ImportError)

from torch import Tensor, nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402, N812

from expunge.torch import GradNorms, UnsupportedLayerError  # noqa: E402
from expunge.torch._axis import Axis, Lost, rows_of  # noqa: E402
from expunge.torch._rule import RULES, Call  # noqa: E402
from torch_norms import assert_exact, block_norms  # noqa: E402

T, D = 5, 4


class Masked(nn.Module):
    """Positions of sequences, and a function of what a layer makes of them and of a mask of what they are."""

    def __init__(self, function):
        super().__init__()
        self.a, self.b, self.function = nn.Linear(3, D), nn.Linear(D, 2), function

    def forward(self, x):
        mask = torch.arange(T) < 1 + (x[:, 0, 0].abs() * 100).long()[:, None] % T  # of 1 to T positions
        return self.b(self.function(self.a(x), mask))


def last(mask):
    """A mask of the last position alone."""
    return torch.arange(T) == mask.sum(1, keepdim=True) - 1


def rows(h):
    return torch.arange(len(h))


EXACT = {
    "the last position, by a mask": lambda h, m: h[last(m)],
    "the last position, by a mask and dots": lambda h, m: h[last(m), ...],
    "two positions, by a mask": lambda h, m: h[last(m) | (torch.arange(T) == m.sum(1, keepdim=True) % T)].view(
        len(h), -1, D
    )[:, -1],
    "entries of a matrix, by a mask": lambda h, m: h.mT[last(m)[:, None].expand(-1, D, -1)].view(len(h), D),
    "all positions, in front of examples": lambda h, m: h.mT.transpose(0, 2)[torch.ones(T, D, len(h)).bool()]
    .view(T, D, -1).transpose(0, 2).mT,
    "the last position, by its number": lambda h, m: h[rows(h), m.sum(1) - 1],
    "a mask of merged heads, made by indices": lambda h, m: torch.where(
        m.repeat_interleave(2, 0)[torch.arange(2 * len(h))[:, None, None], torch.arange(T)],
        h.repeat_interleave(2, 0) @ h.repeat_interleave(2, 0).mT,
        -1e9,
    ).softmax(-1).view(len(h), 2, T, T)[:, 1] @ h,
    "the last position of copies": lambda h, m: h.repeat(2, 1, 1)[torch.arange(2 * len(h)), (m.sum(1) - 1).repeat(2)]
    .view(2, len(h), D).movedim(1, 0),
    "the last position, by gathering": lambda h, m: h.gather(1, (m.sum(1) - 1)[:, None, None].expand(-1, 1, D))[:, 0],
    "attention shut by where": lambda h, m: torch.where(m[:, None], h @ h.mT, -1e9).softmax(-1) @ h,
    "attention shut by adding": lambda h, m: (h @ h.mT + (~m[:, None]).double() * -1e9).softmax(-1) @ h,
    "attention shut in place": lambda h, m: (h @ h.mT).masked_fill_(~m[:, None], -1e9).softmax(-1) @ h,
    "a mask made by indices": lambda h, m: F.scaled_dot_product_attention(
        h[:, None], h[:, None], h[:, None],
        m[rows(h)[:, None, None, None], torch.arange(T)] & torch.ones(T, T).tril().bool() | torch.eye(T).bool()
    )[:, 0],
    "a mean over those that count": lambda h, m: (h * m[..., None]).sum(1) / m.sum(1, keepdim=True),
    "positions counted": lambda h, m: h * (m.cumsum(1) - 1).clamp(min=0)[..., None].sin(),
    "steps of a mask": lambda h, m: h * torch.diff(m.long(), prepend=m[:, :1].long() - 1, dim=-1)[..., None],
    "segments that attend to themselves": lambda h, m: torch.where(
        m[rows(h)[:, None, None], torch.arange(T)[:, None]] == m[rows(h)[:, None, None], torch.arange(T)],
        h @ h.mT,
        -1e9,
    ).softmax(-1) @ h,
    "padded in front of positions": lambda h, m: F.pad(h, (0, 0, 1, 0, 0, 0))[:, :-1] * m[..., None],
    "padded by nothing": lambda h, m: F.pad(h, (0, 0, 0, 0, 0, 0), value=3.0),
    "filled where nothing counts": lambda h, m: h.masked_fill(~m[..., None], 0.5),
}  # fmt: skip


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("batch", [1, 2, 3, T])
def test_masks_of_each_example_are_exact(name, batch):
    torch.manual_seed(batch)
    assert_exact(Masked(EXACT[name]), torch.randn(batch, T, 3))


MIXED = {
    "unequal numbers of positions": (
        lambda h, m: (lambda p: p.cumsum(0))(h[m | (torch.arange(T) == 0)]), "works along the batch"),
    "a mask of positions and examples": (lambda h, m: h.transpose(0, 1)[m], "along the batch dimension"),
    "a mask turned over": (lambda h, m: h[last(m).T], "along the batch dimension"),
    "a mask in another order": (lambda h, m: h[last(m).flip(0)], "reverses the batch dimension"),
    "a mask of columns that are examples": (lambda h, m: h[:, m[:, 0]], "picks for every example from all"),
    "a mask behind other axes": (lambda h, m: h[None][:, last(m)[:, 0] | True, 0][0] + h[:, last(m)[:, 0], 0][:, :1],
                                 "picks for every example from all"),
    "the last positions of others": (lambda h, m: h[rows(h).flip(0), m.sum(1) - 1], "along the batch dimension"),
    "the last positions of other copies": (
        lambda h, m: h.repeat(2, 1, 1)[torch.arange(2 * T), (m.sum(1) - 1).repeat_interleave(2)], "along the batch"),
    "some of the copies": (lambda h, m: h.repeat(2, 1, 1)[torch.arange(len(h)) * 2, m.sum(1) - 1], "along the batch"),
    "shut by a mask turned over": (lambda h, m: torch.where(m.T[..., None], h, 0.0), "different places"),
    "shut by the mask of others": (lambda h, m: (h @ h.mT).masked_fill(~m, -1e9).softmax(-1) @ h, "different places"),
    "a mask for all": (lambda h, m: h * m.all(0)[:, None], "batch dimension"),
    "the number of all that count": (lambda h, m: h / m.sum(), "a sum over examples with examples|not linear"),
    "steps from one example to the next": (
        lambda h, m: h * torch.diff(m.long(), prepend=torch.zeros(1, T).long(), dim=0)[..., None], "along the batch"),
    "steps from a mask turned over": (
        lambda h, m: h * torch.diff(m.long(), prepend=m.T.long(), dim=-1)[:, -T:, None], "different places"),
    "padded over examples": (lambda h, m: F.pad(h, (0, 0, 0, 0, 1, 0))[:-1], "over the batch dimension"),
    "padded behind the examples": (lambda h, m: F.pad(h, (0, 0, 0, 0, 0, 1)), "over the batch dimension"),
    "cut over examples": (lambda h, m: F.pad(h, (0, 0, 0, 0, -1, 1)), "over the batch dimension"),
}  # fmt: skip


@pytest.mark.parametrize("name", MIXED)
def test_masks_of_other_examples_are_refused(name):
    torch.manual_seed(7)
    x = torch.randn(T, T, 3).double()  # as many examples as positions, so that nothing fails by itself
    function, match = MIXED[name]
    with pytest.raises(UnsupportedLayerError, match=match):
        block_norms(Masked(function).double(), x)


def test_an_own_loss_over_one_token_of_each_example_is_a_mean_over_examples():
    torch.manual_seed(8)
    model = Masked(lambda h, m: h * m[..., None])
    labels = torch.tensor([1, 0, 1])

    def loss(y, reduction="mean"):
        picked = y[torch.arange(T) == torch.tensor([[3], [0], [2]])[: len(y)]]
        return F.cross_entropy(picked, labels[: len(y)], reduction=reduction)

    x = torch.randn(3, T, 3).double()
    model = model.double()
    with GradNorms(model) as g:
        loss(model(x), "sum").backward()
        expected = g.norms().numpy()
    np.testing.assert_allclose(block_norms(model, x, loss, loss_reduction="mean"), expected, rtol=1e-12)
    with pytest.raises(UnsupportedLayerError, match="is a mean over examples"):
        block_norms(model, x, loss)


@given(data=st.data())
def test_what_a_mask_picks_belongs_to_whom_the_rule_says(data):
    batch = data.draw(st.integers(2, 3))
    before, after = data.draw(st.integers(1, 2)), data.draw(st.integers(1, 2))
    front = data.draw(st.lists(st.integers(1, 3), max_size=2))
    behind = data.draw(st.lists(st.integers(1, 3), max_size=2))
    dim, shape = len(front), (*front, before * batch * after, *behind)
    start = data.draw(st.integers(0, dim))
    stop = data.draw(st.integers(max(start + 1, dim), len(shape)))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 999)))
    mask = torch.rand(shape[start:stop], generator=generator) < data.draw(st.sampled_from([0.5, 1.1]))
    if data.draw(st.booleans()) and mask.any():  # one for each of the last axis
        mask = (
            torch.arange(mask.shape[-1])
            == torch.randint(0, mask.shape[-1], mask.shape[:-1], generator=generator)[..., None]
        )
    owner = torch.arange(batch).view(1, batch, 1).expand(before, batch, after).reshape(-1)
    owners = owner.view([-1 if k == dim else 1 for k in range(len(shape))]).expand(shape)
    index = (*[slice(None)] * start, mask)
    picked = owners[index]
    states = [(owners, Axis(dim, before, after))]
    if data.draw(st.booleans()) and dim < stop:
        states.append((mask, Axis(dim - start, before, after)))
    found = RULES[Tensor.__getitem__](Call(Tensor.__getitem__, (owners, index), {}, picked, states, batch))
    if isinstance(found, Lost):
        inside = dim < stop
        counts = mask.flatten(dim - start + 1).sum(-1) if inside and mask.ndim > dim - start + 1 else mask
        assert not inside or not mask.any() or len(set(counts.flatten().tolist())) > 1
    else:
        found_rows = rows_of(picked, found, batch)
        assert len(found_rows) == batch
        assert all((found_rows[e] == e).all() for e in range(batch))
